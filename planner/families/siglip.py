"""SigLIP: an image tower and a text encoder, each with a pooled vector; the tower also serves in other models."""

from __future__ import annotations

from planner.families.blocks import layer_norm, linear, plain_mlp, position_embedding, token_embedding
from planner.families.composed import image_tower
from planner.families.config import ComposedConfig, Dimension
from planner.families.family import Family
from planner.families.vision import EncoderConfig, VisionConfig, encoder_layers, patch_convolution
from planner.nodes import ONCE, Attention, Linear, Module, Node, Parameter, Stack, Stream
from planner.numeric import Num, exact_quotient


class SiglipVisionConfig(VisionConfig):
    """The image tower, which has no class token, and a pooling head unless the config says otherwise."""

    vision_use_head: bool = True


class SiglipTextConfig(EncoderConfig):
    """The text encoder."""

    vocab_size: Dimension = 32000
    max_position_embeddings: Dimension = 64
    projection_size: Dimension | None = None

    @property
    def projection_width(self) -> Num:
        """As wide as the encoder where the config does not say."""
        return self.hidden_size if self.projection_size is None else self.projection_size


class SiglipConfig(ComposedConfig):
    """Both towers."""

    text_config: SiglipTextConfig = SiglipTextConfig()
    vision_config: SiglipVisionConfig = SiglipVisionConfig()


def siglip_vision(config: SiglipVisionConfig) -> Module:
    """Patches through an encoder; the head pools them with one learned query."""
    hidden, patches = config.hidden_size, Stream(kind="sample", per_sample=config.num_patches)
    children: dict[str, Node] = {
        "embeddings.patch_embedding": patch_convolution(config, patches),
        "embeddings.position_embedding": position_embedding(config.num_patches, hidden),
        "encoder.layers": encoder_layers(config),
        "post_layernorm": layer_norm(hidden),
    }
    if config.vision_use_head:
        children["head"] = _pooling_head(config, patches)
    return Module(children=children, stream=patches)


def _pooling_head(config: SiglipVisionConfig, patches: Stream) -> Module:
    hidden, heads = config.hidden_size, config.num_attention_heads
    head_dim = exact_quotient(hidden, heads)
    # torch's MultiheadAttention keeps three projections in one tensor, and makes every product itself. Here the query
    # is the probe alone, and keys and values are the patches.
    products = (
        Linear(in_features=hidden, out_features=hidden, weight_name=None, stream=ONCE),
        Linear(in_features=hidden, out_features=2 * hidden, weight_name=None, stream=patches),
        Attention(
            num_heads=heads,
            qk_head_dim=head_dim,
            v_head_dim=head_dim,
            causal=False,
            keys="image",
            key_stream=patches,
        ),
        Linear(in_features=hidden, out_features=hidden, weight_name=None),
    )
    attention = Module(
        children={
            "in_proj_weight": Parameter(shape=(3 * hidden, hidden)),
            "in_proj_bias": Parameter(shape=(3 * hidden,)),
            "out_proj.weight": Parameter(shape=(hidden, hidden)),
            "out_proj.bias": Parameter(shape=(hidden,)),
            "": Stack(parts=products),
        },
        bucket="attention",
    )
    return Module(
        children={
            "probe": Parameter(shape=(1, 1, hidden), bucket="other.pooler"),
            "attention": attention,
            "layernorm": layer_norm(hidden),
            "mlp": plain_mlp(hidden, config.intermediate_size),
        },
        stream=ONCE,
    )


def siglip_text(config: SiglipTextConfig) -> Module:
    """Encoder that sees the whole text, and a projection of its last token."""
    hidden = config.hidden_size
    projection = Module(
        children={"": linear(hidden, config.projection_width, bias=True)}, bucket="other.pooler", stream=ONCE
    )
    return Module(
        children={
            "embeddings.token_embedding": token_embedding(config.vocab_size, hidden),
            "embeddings.position_embedding": position_embedding(config.max_position_embeddings, hidden),
            "encoder.layers": encoder_layers(config),
            "final_layer_norm": layer_norm(hidden),
            "head": projection,
        }
    )


def similarity(width: Num) -> Attention:
    """Product of every text's vector with every image's, over the whole batch."""
    return Attention(
        num_heads=1, qk_head_dim=width, v_head_dim=0, causal=False, keys="pairs", bucket="other.misc", stream=ONCE
    )


def _siglip_model(config: SiglipConfig) -> Node:
    return Module(
        children={
            "text_model": siglip_text(config.text_config),
            "vision_model": image_tower(siglip_vision(config.vision_config)),
            "logit_scale": Parameter(shape=(1,)),
            "logit_bias": Parameter(shape=(1,)),
            "": similarity(config.text_config.projection_width),
        }
    )


FAMILIES = (
    Family(
        model_type="siglip",
        config=SiglipConfig,
        classes={"SiglipModel": _siglip_model},
        default_class="SiglipModel",
    ),
    Family(
        model_type="siglip_text_model",
        config=SiglipTextConfig,
        classes={"SiglipTextModel": siglip_text},
        default_class="SiglipTextModel",
    ),
    Family(
        model_type="siglip_vision_model",
        config=SiglipVisionConfig,
        classes={"SiglipVisionModel": siglip_vision},
        default_class="SiglipVisionModel",
    ),
)
