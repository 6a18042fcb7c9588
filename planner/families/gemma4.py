"""Gemma 4: two kinds of layers with heads of their own, per-layer inputs, shared keys, experts beside a dense MLP.

Images are pooled to `vision_soft_tokens_per_image` tokens, whatever their shape. Sound has parameters here and no
FLOPs: a step does not say how long it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from planner.errors import ConfigError
from planner.families.beside import NOTHING, UNUSED_TENSORS, tensor
from planner.families.blocks import gated_mlp, layer_stack, layers, linear, rms_norm, with_children
from planner.families.composed import ImageTextConfig, image_tower, text_head
from planner.families.config import Count, Dimension, LayerCount, ModelConfig, Names, require, require_divides
from planner.families.decoder import (
    FULL,
    SLIDING,
    AttentionBiasConfig,
    decoder,
    decoder_classes,
    require_kinds,
)
from planner.families.family import Family
from planner.families.moe import check_top_k, router
from planner.nodes import (
    ONCE,
    Attention,
    Convolution,
    Embedding,
    Experts,
    Linear,
    Module,
    Node,
    Norm,
    Parameter,
    Product,
    Stream,
)
from planner.numeric import Num, exact_quotient

PER_LAYER = "embeddings.per_layer"

SILENCE = Stream(kind="sample", per_sample=0)
"""Positions of sound in a step."""


class Gemma4TextConfig(AttentionBiasConfig):
    """The decoder. Full layers have heads of `global_head_dim`, and with `attention_k_eq_v` no value projection."""

    column_free_keys: ClassVar[frozenset[str]] = frozenset({"num_hidden_layers", "num_kv_shared_layers"})

    vocab_size: Dimension = 262144
    hidden_size: Dimension = 2304
    intermediate_size: Dimension = 9216
    num_hidden_layers: LayerCount = 30
    num_attention_heads: Dimension = 8
    num_key_value_heads: Dimension | None = 4
    head_dim: Dimension | None = 256
    global_head_dim: Dimension = 512
    num_global_key_value_heads: Dimension | None = None
    sliding_window: Dimension = 512
    layer_types: Names | None = None
    use_bidirectional_attention: str | None = None
    vocab_size_per_layer_input: Dimension = 262144
    hidden_size_per_layer_input: Count = 256
    attention_k_eq_v: bool = False
    num_kv_shared_layers: Count = 0
    enable_moe_block: bool = False
    use_double_wide_mlp: bool = False
    num_experts: Dimension | None = None
    top_k_experts: Dimension | None = None
    moe_intermediate_size: Dimension | None = None
    tie_word_embeddings: bool = True

    def kinds(self) -> list[str]:
        """Kind of each layer: every sixth is full where none is listed, and the last one always."""
        listed = self.layer_types or [SLIDING if (layer + 1) % 6 else FULL for layer in range(self.num_hidden_layers)]
        return [*listed[:-1], FULL]

    def shares(self) -> list[bool]:
        """Whether each layer looks at the keys and values of an earlier one of its kind."""
        own = self.num_hidden_layers - self.num_kv_shared_layers
        return [layer >= own for layer in range(self.num_hidden_layers)]

    def expert_sizes(self) -> tuple[Num, Num, Num]:
        """Experts, how many of them a token visits, and how wide each is, where there are any."""
        if self.num_experts is None or self.top_k_experts is None or self.moe_intermediate_size is None:
            keys = ("num_experts", "top_k_experts", "moe_intermediate_size")
            missing = next(key for key in keys if getattr(self, key) is None)
            raise ConfigError("is missing and the class has no default for it", key=missing)
        return self.num_experts, self.top_k_experts, self.moe_intermediate_size

    def width_of_head(self, kind: str) -> Num:
        """Width of a head in a layer of a kind."""
        return self.global_head_dim if kind == FULL else self.head_width

    def kv_heads_of(self, kind: str) -> Num:
        """Key/value heads in a layer of a kind."""
        if kind == FULL and self.attention_k_eq_v and self.num_global_key_value_heads is not None:
            return self.num_global_key_value_heads
        return self.kv_heads

    def check(self) -> None:
        """Besides the heads, the lists must fit, shared keys must exist, and experts must be sized."""
        super().check()
        require_kinds("layer_types", self.kinds(), self.num_hidden_layers, (SLIDING, FULL))
        require_divides(
            "num_global_key_value_heads", self.kv_heads_of(FULL), "num_attention_heads", self.num_attention_heads
        )
        require(
            self.use_bidirectional_attention != "all",
            "use_bidirectional_attention",
            "a text encoder is not supported, expected null or vision",
        )
        own = {kind for kind, shares in zip(self.kinds(), self.shares(), strict=True) if not shares}
        require(
            own == set(self.kinds()),
            "num_kv_shared_layers",
            f"{self.num_kv_shared_layers} layers share, but no layer before them has keys of each kind",
        )
        if self.enable_moe_block:
            num_experts, top_k, _ = self.expert_sizes()
            check_top_k("top_k_experts", top_k, num_experts)


class Gemma4VisionConfig(ModelConfig):
    """The image tower."""

    # Clipping and standardizing have buffers; the rest no class reads.
    accepted_keys: ClassVar[frozenset[str]] = frozenset(
        {"attention_bias", "default_output_length", "global_head_dim", "image_seq_length", "max_position_embeddings"}
        | {"standardize", "use_clipped_linears", "video_seq_length"}
    )

    hidden_size: Dimension = 768
    intermediate_size: Dimension = 3072
    num_hidden_layers: LayerCount = 16
    num_attention_heads: Dimension = 12
    num_key_value_heads: Dimension = 12
    head_dim: Dimension = 64
    pooling_kernel_size: Dimension = 3
    patch_size: Dimension = 16
    position_embedding_size: Dimension = 10240

    def check(self) -> None:
        """Heads must share key/value heads evenly."""
        require_divides(
            "num_key_value_heads", self.num_key_value_heads, "num_attention_heads", self.num_attention_heads
        )


class Gemma4AudioConfig(ModelConfig):
    """The tower of sound."""

    # How values are scaled and clipped, and how far a frame looks.
    accepted_keys: ClassVar[frozenset[str]] = frozenset(
        {"attention_chunk_size", "attention_context_left", "attention_context_right", "attention_invalid_logits_value"}
        | {"attention_logit_cap", "gradient_clipping", "residual_weight", "use_clipped_linears"}
    )

    hidden_size: Dimension = 1024
    num_hidden_layers: LayerCount = 12
    num_attention_heads: Dimension = 8
    subsampling_conv_channels: Annotated[list[Dimension], Field(min_length=2, max_length=2)] = [128, 32]  # noqa: RUF012
    conv_kernel_size: Dimension = 5
    output_proj_dims: Dimension = 1536

    def check(self) -> None:
        """Heads must divide the width."""
        require_divides("num_attention_heads", self.num_attention_heads, "hidden_size", self.hidden_size)


class Gemma4Config(ImageTextConfig):
    """Decoder, and towers of images and sound where there are any."""

    text_config: Gemma4TextConfig = Gemma4TextConfig()
    vision_config: Gemma4VisionConfig | None = None
    audio_config: Gemma4AudioConfig | None = None
    vision_soft_tokens_per_image: Dimension = 280
    tie_word_embeddings: bool = True

    @property
    def image_tokens(self) -> Num:
        """What pooling leaves of an image. [token]"""
        return self.vision_soft_tokens_per_image


def _attention(config: Gemma4TextConfig, kind: str, *, shares: bool) -> Module:
    hidden, width = config.hidden_size, config.width_of_head(kind)
    heads, kv_heads, bias = config.num_attention_heads, config.kv_heads_of(kind), config.attention_bias
    children: dict[str, Node] = {"q_proj": linear(hidden, heads * width, bias), "q_norm": rms_norm(width)}
    if not shares:
        children |= {"k_norm": rms_norm(width), "k_proj": linear(hidden, kv_heads * width, bias)}
        if not (kind == FULL and config.attention_k_eq_v):
            children["v_proj"] = linear(hidden, kv_heads * width, bias)
    children["o_proj"] = linear(heads * width, hidden, bias)
    children[""] = Attention(
        num_heads=heads,
        num_kv_heads=kv_heads,
        qk_head_dim=width,
        v_head_dim=width,
        causal=True,
        caches=not shares,
        window=None if kind == FULL else config.sliding_window,
    )
    return Module(children=children, bucket="attention")


def _experts(config: Gemma4TextConfig) -> dict[str, Node]:
    hidden, (experts, top_k, inner) = config.hidden_size, config.expert_sizes()
    scales = {"scale": Parameter(shape=(hidden,)), "per_expert_scale": Parameter(shape=(experts,))}
    norms = ("post_feedforward_layernorm_1", "post_feedforward_layernorm_2", "pre_feedforward_layernorm_2")
    return {
        "router": Module(children={"proj": router(hidden, experts), **scales}, bucket="router"),
        "experts": Experts(num_experts=experts, top_k=top_k, hidden_size=hidden, intermediate_size=inner),
        **dict.fromkeys(norms, rms_norm(hidden)),
    }


def _block(config: Gemma4TextConfig, kind: str, *, shares: bool) -> Module:
    hidden, per_layer = config.hidden_size, config.hidden_size_per_layer_input
    doubled = 2 if config.use_double_wide_mlp and shares else 1
    norms = (
        *("input_layernorm", "post_attention_layernorm"),
        *("pre_feedforward_layernorm", "post_feedforward_layernorm"),
    )
    children: dict[str, Node] = {
        "self_attn": _attention(config, kind, shares=shares),
        "mlp": gated_mlp(hidden, doubled * config.intermediate_size),
        **dict.fromkeys(norms, rms_norm(hidden)),
    }
    if per_layer:
        projections = {
            "per_layer_input_gate": linear(hidden, per_layer),
            "per_layer_projection": linear(per_layer, hidden),
        }
        children |= {name: Module(children={"": node}, bucket=PER_LAYER) for name, node in projections.items()}
        children["post_per_layer_input_norm"] = rms_norm(hidden)
    if config.enable_moe_block:
        children |= _experts(config)
    return Module(children=children)


def gemma4_text_model(config: Gemma4TextConfig) -> Module:
    """Layers of two kinds, the last of which may look at the keys of earlier ones."""
    blocks = layer_stack(
        list(zip(config.kinds(), config.shares(), strict=True)),
        lambda kind: _block(config, kind[0], shares=kind[1]),
    )
    model = decoder(config, blocks)
    width = config.num_hidden_layers * config.hidden_size_per_layer_input
    if not width:
        return model
    projection = Module(children={"": linear(config.hidden_size, width)}, bucket=PER_LAYER)
    table = Embedding(num_embeddings=config.vocab_size_per_layer_input, embedding_dim=width, bucket=PER_LAYER)
    return with_children(
        model,
        {
            "embed_tokens_per_layer": table,
            "per_layer_model_projection": projection,
            "per_layer_projection_norm": rms_norm(config.hidden_size_per_layer_input),
        },
    )


def _clippable(in_features: Num, out_features: Num) -> Module:
    """Linear inside a module that may clip what goes in and out."""
    return Module(children={"linear": linear(in_features, out_features)})


def _vision_block(config: Gemma4VisionConfig) -> Module:
    hidden, inner, width = config.hidden_size, config.intermediate_size, config.head_dim
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    attention: dict[str, Node] = {
        "q_proj": _clippable(hidden, heads * width),
        "k_proj": _clippable(hidden, kv_heads * width),
        "v_proj": _clippable(hidden, kv_heads * width),
        "o_proj": _clippable(heads * width, hidden),
        "q_norm": rms_norm(width),
        "k_norm": rms_norm(width),
        "": Attention(num_heads=heads, qk_head_dim=width, v_head_dim=width, causal=False),
    }
    mlp: dict[str, Node] = {
        "gate_proj": _clippable(hidden, inner),
        "up_proj": _clippable(hidden, inner),
        "down_proj": _clippable(inner, hidden),
    }
    norms = (
        *("input_layernorm", "post_attention_layernorm"),
        *("pre_feedforward_layernorm", "post_feedforward_layernorm"),
    )
    return Module(
        children={
            "self_attn": Module(children=attention, bucket="attention"),
            "mlp": Module(children=mlp, bucket="mlp"),
            **dict.fromkeys(norms, rms_norm(hidden)),
        }
    )


def gemma4_vision(config: Gemma4VisionConfig, tokens: Num) -> Module:
    """Patches through an encoder, and means of neighbours by a product with a matrix of zeros and ones."""
    hidden, patches = config.hidden_size, tokens * config.pooling_kernel_size**2
    embedder: dict[str, Node] = {
        "input_proj": Linear(
            in_features=3 * config.patch_size**2, out_features=hidden, input_needs_grad=False, bucket="embeddings.other"
        ),
        "position_embedding_table": Parameter(
            shape=(2, config.position_embedding_size, hidden), bucket="embeddings.position"
        ),
    }
    means = Product(rows=tokens, inner=patches, columns=hidden, constant=True, stream=ONCE)
    return Module(
        children={
            "patch_embedder": Module(children=embedder),
            "encoder.layers": layers(_vision_block(config), config.num_hidden_layers),
            "pooler": means,
        },
        stream=Stream(kind="sample", per_sample=patches),
    )


def _audio_block(config: Gemma4AudioConfig) -> Module:
    hidden, kernel = config.hidden_size, (config.conv_kernel_size,)
    feed_forward = Module(
        children={
            "ffw_layer_1": _clippable(hidden, 4 * hidden),
            "ffw_layer_2": _clippable(4 * hidden, hidden),
            "pre_layer_norm": rms_norm(hidden),
            "post_layer_norm": rms_norm(hidden),
        },
        bucket="mlp",
    )
    attention: dict[str, Node] = {
        **{name: _clippable(hidden, hidden) for name in ("q_proj", "k_proj", "v_proj", "post")},
        "relative_k_proj": linear(hidden, hidden),
        "per_dim_scale": Parameter(shape=(exact_quotient(hidden, config.num_attention_heads),)),
    }
    convolution: dict[str, Node] = {
        "linear_start": _clippable(hidden, 2 * hidden),
        "linear_end": _clippable(hidden, hidden),
        "depthwise_conv1d": Convolution(
            in_channels=hidden, out_channels=hidden, kernel_size=kernel, groups=hidden, bias=False
        ),
        "pre_layer_norm": rms_norm(hidden),
        "conv_norm": rms_norm(hidden),
    }
    return Module(
        children={
            "feed_forward1": feed_forward,
            "feed_forward2": feed_forward,
            "self_attn": Module(children=attention, bucket="attention"),
            "lconv1d": Module(children=convolution),
            **dict.fromkeys(("norm_pre_attn", "norm_post_attn", "norm_out"), rms_norm(hidden)),
        }
    )


def _audio_tower(config: Gemma4AudioConfig) -> Module:
    first, second = config.subsampling_conv_channels

    def halving(channels: Num, outputs: Num) -> Module:
        convolution = Convolution(in_channels=channels, out_channels=outputs, kernel_size=(3, 3), bias=False)
        return Module(children={"conv": convolution, "norm": Norm(dim=outputs)}, bucket="embeddings.other")

    subsampling = Module(
        children={
            "layer0": halving(1, first),
            "layer1": halving(first, second),
            "input_proj_linear": linear(first // 4 * second, config.hidden_size),
        },
        bucket="embeddings.other",
    )
    return Module(
        children={
            "subsample_conv_projection": subsampling,
            "layers": layers(_audio_block(config), config.num_hidden_layers),
            "output_proj": linear(config.hidden_size, config.output_proj_dims, bias=True),
        },
        stream=SILENCE,
        tower="audio",
    )


def _projector(in_features: Num, out_features: Num, stream: Stream) -> Module:
    return Module(
        children={"embedding_projection": linear(in_features, out_features)}, bucket="projector", stream=stream
    )


def gemma4_model(config: Gemma4Config) -> Module:
    """Decoder, and a projector for each tower that there is."""
    text, image, sound, tokens = config.text_config, config.vision_config, config.audio_config, config.image_tokens
    children: dict[str, Node] = {"language_model": gemma4_text_model(text)}
    if image is not None:
        children["vision_tower"] = image_tower(gemma4_vision(image, tokens))
        children["embed_vision"] = _projector(
            image.hidden_size, text.hidden_size, Stream(kind="image", per_sample=tokens)
        )
    if sound is not None:
        children["audio_tower"] = _audio_tower(sound)
        children["embed_audio"] = _projector(sound.output_proj_dims, text.hidden_size, SILENCE)
    return Module(children=children)


def _conditional_generation(config: Gemma4Config) -> Node:
    return text_head(gemma4_model(config), config.text_config, tied=config.tie_word_embeddings)


def _unused_keys(config: Gemma4TextConfig, _: Mapping[str, Any]) -> Node:
    """Keys and values that layers would have which look at those of an earlier one: stored all the same."""

    def tensors_of(kind: str) -> Node:
        width = config.width_of_head(kind)
        outputs = config.kv_heads_of(kind) * width
        found: dict[str, Node] = {
            "k_norm.weight": tensor(UNUSED_TENSORS, width),
            "k_proj.weight": tensor(UNUSED_TENSORS, outputs, config.hidden_size),
        }
        if not (kind == FULL and config.attention_k_eq_v):
            found["v_proj.weight"] = tensor(UNUSED_TENSORS, outputs, config.hidden_size)
        return Module(children={"self_attn": Module(children=found)})

    sharing = [kind for kind, shares in zip(config.kinds(), config.shares(), strict=True) if shares]
    return Module(children={"layers": layer_stack(sharing, tensors_of)}) if sharing else NOTHING


FAMILIES = (
    Family(
        model_type="gemma4",
        config=Gemma4Config,
        classes={"Gemma4Model": gemma4_model, "Gemma4ForConditionalGeneration": _conditional_generation},
        default_class="Gemma4ForConditionalGeneration",
        beside=lambda config, raw: _unused_keys(config.text_config, raw),
    ),
    Family(
        model_type="gemma4_text",
        config=Gemma4TextConfig,
        classes={
            "Gemma4TextModel": gemma4_text_model,
            "Gemma4ForCausalLM": decoder_classes("Gemma4", gemma4_text_model)["Gemma4ForCausalLM"],
        },
        default_class="Gemma4ForCausalLM",
        beside=_unused_keys,
    ),
)
