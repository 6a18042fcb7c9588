"""Llama 3.2 Vision: a decoder some of whose layers look at the images and nothing else.

An image is cut into up to `max_num_tiles` tiles, and short ones are padded to that many, so that every image costs the
same. The text holds one token for an image. A text without images passes by the layers that would look at them.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import AliasChoices, Field

from planner.families.blocks import (
    gated_mlp,
    layer_norm,
    layer_stack,
    layers,
    linear,
    output_head,
    plain_mlp,
    rms_norm,
    token_embedding,
    with_children,
)
from planner.families.composed import ImageTextConfig, image_tower
from planner.families.config import LARGEST_LAYER_COUNT, Count, Dimension, LayerCount, require
from planner.families.decoder import DecoderConfig, decoder, dense_block
from planner.families.family import Family
from planner.families.vision import DUMPED_KEYS, Side, VisionConfig, encoder_block, patch_convolution
from planner.nodes import ONCE, Attention, Embedding, Linear, Module, Node, Norm, Parameter, Product, Stream
from planner.numeric import Num, all_true, ceil_div

Layers = Annotated[list[Count], Field(max_length=LARGEST_LAYER_COUNT)]

ILLUSTRATED = Stream(kind="illustrated")
"""Tokens of a text that comes with images: without any, the class leaves out the layers that would look at them."""

ADDED_TOKENS = 8
"""Rows of the input table beyond the vocabulary, for the image token; the head has none for them."""

POSITIONS_MULTIPLE = 8
"""The positions of a tile are padded to a multiple of this."""


class MllamaVisionConfig(VisionConfig):
    """The image tower: one encoder, and a second one whose layers are scaled by learned gates."""

    column_free_keys: ClassVar[frozenset[str]] = frozenset({"num_global_layers"})

    hidden_size: Dimension = 1280
    intermediate_size: Dimension = 5120
    num_hidden_layers: LayerCount = 32
    num_global_layers: LayerCount = 8
    num_attention_heads: Dimension = Field(16, validation_alias=AliasChoices("attention_heads", "num_attention_heads"))
    image_size: Side = 448
    patch_size: Side = 14
    vision_output_dim: Dimension = 7680
    max_num_tiles: Dimension = 4
    intermediate_layers_indices: Layers = [3, 7, 15, 23, 30]  # noqa: RUF012 - pydantic copies it
    supported_aspect_ratios: list[list[int]] = [  # noqa: RUF012 - pydantic copies it
        [1, 1],
        [1, 2],
        [1, 3],
        [1, 4],
        [2, 1],
        [2, 2],
        [3, 1],
        [4, 1],
    ]

    @property
    def num_positions(self) -> Num:
        """Patches of a tile, and its class token."""
        return self.num_patches + 1

    @property
    def padded_positions(self) -> Num:
        """Positions of all tiles as the layers see them."""
        return self.max_num_tiles * POSITIONS_MULTIPLE * ceil_div(self.num_positions, POSITIONS_MULTIPLE)

    def check(self) -> None:
        """Besides the tower, its output is as wide as the layers that are put side by side."""
        super().check()
        outputs = 1 + len(self.intermediate_layers_indices)
        width = outputs * self.hidden_size
        # Two comparisons, since an equation of symbols holds only where both sides are written alike.
        require(
            all_true(self.vision_output_dim <= width) and all_true(self.vision_output_dim >= width),
            "vision_output_dim",
            f"{self.vision_output_dim}, but {outputs} layers of {self.hidden_size} are put side by side",
        )


class MllamaTextConfig(DecoderConfig):
    """The decoder: `cross_attention_layers` look at the images in place of the text."""

    accepted_keys: ClassVar[frozenset[str]] = DecoderConfig.accepted_keys | DUMPED_KEYS
    column_free_keys: ClassVar[frozenset[str]] = frozenset({"num_hidden_layers"})

    vocab_size: Dimension = 128256
    intermediate_size: Dimension = 14336
    num_hidden_layers: LayerCount = 40
    num_key_value_heads: Dimension | None = 8
    cross_attention_layers: Layers = [3, 8, 13, 18, 23, 28, 33, 38]  # noqa: RUF012 - pydantic copies it

    def check(self) -> None:
        """Besides the heads, the layers that look at the images must be layers."""
        super().check()
        for layer in self.cross_attention_layers:
            require(
                layer < self.num_hidden_layers,
                "cross_attention_layers",
                f"names layer {layer}, but num_hidden_layers is {self.num_hidden_layers}",
            )


class MllamaConfig(ImageTextConfig):
    """Tower and decoder. The head is never tied: it lacks the rows of the added tokens."""

    text_config: MllamaTextConfig = MllamaTextConfig()
    vision_config: MllamaVisionConfig = MllamaVisionConfig()

    @property
    def image_tokens(self) -> Num:
        """One token marks the place of an image, whatever its size. [token]"""
        return 1

    @property
    def image_keys(self) -> Stream:
        """What the decoder sees of one image: every position of every tile, without the padding."""
        tower = self.vision_config
        return Stream(kind="image", per_sample=tower.max_num_tiles * tower.num_positions)


def _tile_embedding(config: MllamaVisionConfig, width: Num, bucket: str) -> dict[str, Node]:
    """Table with a row for each aspect ratio, and one for no image; and its gate."""
    rows = len(config.supported_aspect_ratios) + 1
    return {
        "embedding": Embedding(num_embeddings=rows, embedding_dim=config.max_num_tiles * width, bucket=bucket),
        "gate": Parameter(shape=(1,), bucket=bucket),
    }


def _vision_layers(config: MllamaVisionConfig, count: Num, *, gated: bool) -> Node:
    block = encoder_block(
        config,
        plain_mlp(config.hidden_size, config.intermediate_size),
        norms=("input_layernorm", "post_attention_layernorm"),
        out_name="o_proj",
        qkv_bias=False,
        out_bias=False,
    )
    if gated:
        buckets = {"gate_attn": "attention", "gate_ffn": "mlp"}
        block = with_children(block, {name: Parameter(shape=(1,), bucket=bucket) for name, bucket in buckets.items()})
    return layers(block, count)


def mllama_vision(config: MllamaVisionConfig) -> Module:
    """All tiles of an image through both encoders, each position seeing every tile."""
    hidden, positions, padded = config.hidden_size, config.num_positions, config.padded_positions
    patches = Stream(kind="sample", per_sample=config.max_num_tiles * config.num_patches)
    position, type_ = "embeddings.position", "embeddings.type"
    by_tile = _tile_embedding(config, positions * hidden, position)
    position_embedding: dict[str, Node] = {
        "gate": by_tile["gate"],
        "embedding": Parameter(shape=(positions, hidden), bucket=position),
        "tile_embedding": by_tile["embedding"],
    }
    tile_embedding = Module(children=_tile_embedding(config, hidden, type_))
    # The mask is the outer product of which positions are padding.
    mask = Product(rows=padded, inner=1, columns=padded, stream=ONCE)
    return Module(
        children={
            "class_embedding": Parameter(shape=(hidden,), bucket="embeddings.other"),
            "patch_embedding": patch_convolution(config, patches, bias=False),
            "gated_positional_embedding": Module(children=position_embedding),
            "pre_tile_positional_embedding": tile_embedding,
            "post_tile_positional_embedding": tile_embedding,
            "layernorm_pre": layer_norm(hidden),
            "layernorm_post": layer_norm(hidden),
            "transformer.layers": _vision_layers(config, config.num_hidden_layers, gated=False),
            "global_transformer.layers": _vision_layers(config, config.num_global_layers, gated=True),
            "": Module(children={"": mask}, backward=False),
        },
        stream=Stream(kind="sample", per_sample=padded),
    )


def _cross_block(config: MllamaTextConfig, image_keys: Stream, looking: Stream) -> Module:
    hidden, heads, head_dim = config.hidden_size, config.num_attention_heads, config.head_width
    bucket = "attention.cross"
    to_keys = Linear(in_features=hidden, out_features=config.kv_heads * head_dim, stream=image_keys)
    attention = Module(
        children={
            "q_proj": linear(hidden, heads * head_dim),
            "k_proj": to_keys,
            "v_proj": to_keys,
            "o_proj": linear(heads * head_dim, hidden),
            "q_norm": rms_norm(head_dim),
            "k_norm": Norm(dim=head_dim, stream=image_keys),
            "": Attention(
                num_heads=heads,
                num_kv_heads=config.kv_heads,
                qk_head_dim=head_dim,
                v_head_dim=head_dim,
                causal=False,
                keys="image",
                key_stream=image_keys,
                bucket=bucket,
            ),
        },
        bucket=bucket,
    )
    gate = Parameter(shape=(1,), bucket=bucket)
    return Module(
        children={
            "cross_attn": attention,
            "input_layernorm": rms_norm(hidden),
            "cross_attn_attn_gate": gate,
            "mlp": gated_mlp(hidden, config.intermediate_size),
            "post_attention_layernorm": rms_norm(hidden),
            "cross_attn_mlp_gate": gate,
        },
        stream=looking,
    )


def _text_model(config: MllamaTextConfig, image_keys: Stream, looking: Stream = ILLUSTRATED) -> Module:
    looks = set(config.cross_attention_layers)
    blocks = layer_stack(
        [layer in looks for layer in range(config.num_hidden_layers)],
        lambda cross: _cross_block(config, image_keys, looking) if cross else dense_block(config, None),
    )
    model = decoder(config, blocks)
    return with_children(model, {"embed_tokens": token_embedding(config.vocab_size + ADDED_TOKENS, config.hidden_size)})


def mllama_model(config: MllamaConfig) -> Module:
    """Tower, projector and decoder."""
    keys = config.image_keys
    width = config.text_config.hidden_size
    projector = Module(
        children={"": linear(config.vision_config.vision_output_dim, width, bias=True)}, bucket="projector", stream=keys
    )
    return Module(
        children={
            "vision_model": image_tower(mllama_vision(config.vision_config)),
            "language_model": _text_model(config.text_config, keys),
            "multi_modal_projector": projector,
        }
    )


def _with_head(model: Module, text: MllamaTextConfig) -> Module:
    return Module(children={"model": model, "lm_head": output_head(text.hidden_size, text.vocab_size, None)})


NO_IMAGES = Stream(kind="sample", per_sample=0)
"""What the decoder alone sees of images."""


def _text_alone(config: MllamaTextConfig) -> Module:
    return _text_model(config, NO_IMAGES, NO_IMAGES)


FAMILIES = (
    Family(
        model_type="mllama",
        config=MllamaConfig,
        classes={
            "MllamaModel": mllama_model,
            "MllamaForConditionalGeneration": lambda config: _with_head(mllama_model(config), config.text_config),
        },
        default_class="MllamaForConditionalGeneration",
    ),
    Family(
        model_type="mllama_text_model",
        config=MllamaTextConfig,
        classes={
            "MllamaTextModel": _text_alone,
            "MllamaForCausalLM": lambda config: _with_head(_text_alone(config), config),
        },
        default_class="MllamaForCausalLM",
    ),
)
