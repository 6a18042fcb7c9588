"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: images of any size as a grid of patches, four neighbours merged into one token.

No config says how large an image is. What is counted is a square of `IMAGE_SIDE` pixels, or the largest smaller one
that whole tokens (in Qwen2.5-VL, whole windows) tile; ``vision_config.image_size`` chooses another side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar

from pydantic import AliasChoices, Field, model_validator

from planner.families.blocks import (
    gated_mlp,
    layer_norm,
    layer_stack,
    layers,
    linear,
    plain_mlp,
    position_embedding,
    rms_norm,
    with_children,
)
from planner.families.composed import ImageTextConfig, image_tower, text_head
from planner.families.config import (
    LARGEST_LAYER_COUNT,
    Count,
    Dimension,
    LayerCount,
    ModelConfig,
    known_keys,
    require,
    require_divides,
)
from planner.families.decoder import AttentionBiasConfig, DecoderConfig, decoder, dense_block, windowed_layers
from planner.families.family import Builder, Family
from planner.families.llama import Qwen2Config, llama_model
from planner.families.moe import Qwen3MoeConfig, qwen3_moe_model
from planner.families.vision import Side
from planner.nodes import Attention, Convolution, Module, Node, Norm, Stream
from planner.numeric import Num, all_true, exact_quotient

Layers = Annotated[list[Count], Field(max_length=LARGEST_LAYER_COUNT)]

IMAGE_SIDE = 896
"""Side of the image that stands for all: 1,024 tokens in Qwen2-VL and Qwen2.5-VL, 784 in Qwen3-VL. [pixel]"""


class QwenVisionConfig(ModelConfig):
    """Keys of the image tower that every generation has; `image_size` is the planner's own."""

    accepted_keys: ClassVar[frozenset[str]] = frozenset({"spatial_patch_size", "tokens_per_second"})
    column_free_keys: ClassVar[frozenset[str]] = frozenset({"depth"})

    depth: LayerCount = Field(32, validation_alias=AliasChoices("depth", "num_hidden_layers"))
    num_heads: Dimension = Field(16, validation_alias=AliasChoices("num_heads", "num_attention_heads"))
    in_channels: Dimension = Field(3, validation_alias=AliasChoices("in_channels", "in_chans"))
    patch_size: Side = 14
    spatial_merge_size: Dimension = 2
    temporal_patch_size: Dimension = 2
    image_size: Side = IMAGE_SIDE

    @property
    def width(self) -> Num:
        """Of the tower's layers."""
        raise NotImplementedError

    @property
    def tile(self) -> Num:
        """Side of the square that an image holds a whole number of. [pixel]"""
        return self.patch_size * self.spatial_merge_size

    @property
    def num_patches(self) -> Num:
        """Patches of one image."""
        return (self.image_size // self.tile * exact_quotient(self.tile, self.patch_size)) ** 2

    @property
    def merged(self) -> Num:
        """Patches that become one token."""
        return self.spatial_merge_size**2

    @property
    def num_tokens(self) -> Num:
        """Tokens of one image."""
        return exact_quotient(self.num_patches, self.merged)

    def check(self) -> None:
        """Heads must divide the width, and the image must hold a token."""
        require_divides("num_heads", self.num_heads, "hidden_size", self.width)
        require(
            all_true(self.tile <= self.image_size),
            "image_size",
            f"{self.image_size} pixels, but {self.tile} is the least that the tower can take",
        )


class Qwen2VLVisionConfig(QwenVisionConfig):
    """Qwen2-VL's tower, whose `hidden_size` is what it hands to the decoder."""

    embed_dim: Dimension = 1280
    hidden_size: Dimension = 3584
    mlp_ratio: Dimension = 4

    @property
    def width(self) -> Num:
        """Of the tower's layers."""
        return self.embed_dim


class Qwen25VLVisionConfig(QwenVisionConfig):
    """Qwen2.5-VL's tower: most layers see windows of the image."""

    hidden_size: Dimension = 3584
    intermediate_size: Dimension = 3420
    out_hidden_size: Dimension = 3584
    window_size: Dimension = 112
    fullatt_block_indexes: Layers = [7, 15, 23, 31]  # noqa: RUF012 - pydantic copies it

    @property
    def width(self) -> Num:
        """Of the tower's layers."""
        return self.hidden_size

    @property
    def tile(self) -> Num:
        """Side of a window, in whole tokens. [pixel]"""
        token = self.patch_size * self.spatial_merge_size
        return self.window_size // token * token

    @property
    def window_patches(self) -> Num:
        """Patches of one window."""
        return exact_quotient(self.tile, self.patch_size) ** 2

    def check(self) -> None:
        """Besides the heads, a window must hold a token."""
        require(
            all_true(self.patch_size * self.spatial_merge_size <= self.window_size),
            "window_size",
            f"{self.window_size} pixels, but a token has {self.patch_size * self.spatial_merge_size}",
        )
        super().check()


class Qwen3VLVisionConfig(QwenVisionConfig):
    """Qwen3-VL's tower: a table of positions, and outputs of some layers for the first layers of the decoder."""

    depth: LayerCount = Field(27, validation_alias=AliasChoices("depth", "num_hidden_layers"))
    hidden_size: Dimension = 1152
    intermediate_size: Dimension = 4304
    patch_size: Side = 16
    out_hidden_size: Dimension = 3584
    num_position_embeddings: Dimension = 2304
    deepstack_visual_indexes: Layers = [8, 16, 24]  # noqa: RUF012 - pydantic copies it

    @property
    def width(self) -> Num:
        """Of the tower's layers."""
        return self.hidden_size

    def check(self) -> None:
        """Besides the heads, the layers that are read must be layers."""
        super().check()
        for layer in self.deepstack_visual_indexes:
            require(layer < self.depth, "deepstack_visual_indexes", f"names layer {layer}, but depth is {self.depth}")


class Qwen2VLTextConfig(Qwen2Config):
    """The decoder of Qwen2-VL and Qwen2.5-VL."""

    vocab_size: Dimension = 152064
    hidden_size: Dimension = 8192
    intermediate_size: Dimension = 29568
    num_hidden_layers: LayerCount = 80
    num_attention_heads: Dimension = 64
    num_key_value_heads: Dimension | None = 8
    max_window_layers: int = 80


class Qwen3VLTextConfig(AttentionBiasConfig):
    """The decoder of Qwen3-VL: Qwen3 without windows."""

    vocab_size: Dimension = 151936
    intermediate_size: Dimension = 22016
    num_key_value_heads: Dimension | None = 32
    head_dim: Dimension | None = 128


class Qwen3VLMoeTextConfig(Qwen3MoeConfig):
    """The decoder of Qwen3-VL-MoE: Qwen3-MoE without windows."""

    intermediate_size: Dimension = 5632
    num_attention_heads: Dimension = 16
    num_key_value_heads: Dimension | None = 16
    moe_intermediate_size: Dimension = 1408
    num_experts: Dimension = Field(60, validation_alias=AliasChoices("num_experts", "num_local_experts"))
    num_experts_per_tok: Dimension = 4

    def windows(self) -> list[Num | None]:
        """None, whatever the config says."""
        return [None] * self.num_hidden_layers


class QwenVLConfig(ImageTextConfig):
    """Keys that every generation has."""

    text_config: DecoderConfig
    vision_config: QwenVisionConfig

    @property
    def image_tokens(self) -> Num:
        """Patches of the counted image, four (or as the config says) to a token. [token]"""
        return self.vision_config.num_tokens

    @property
    def ties_head(self) -> bool:
        """Whether the head runs with the input table's matrix."""
        return self.tie_word_embeddings


class _FlatTextConfig(QwenVLConfig):
    """Keys of a generation whose files state the decoder's keys at the top level."""

    accepted_keys: ClassVar[frozenset[str]] = known_keys(Qwen2VLTextConfig)

    text_config: Qwen2VLTextConfig = Qwen2VLTextConfig()

    @model_validator(mode="before")
    @classmethod
    def _collect(cls, raw: Any) -> Any:
        """The decoder's keys from the top level, where no nested config holds them."""
        if not isinstance(raw, Mapping) or raw.get("text_config") is not None:
            return raw
        text = {key: value for key, value in raw.items() if key in cls.accepted_keys and key != "model_type"}
        return {**raw, "text_config": text}

    @property
    def ties_head(self) -> bool:
        """As this config says, or the decoder's."""
        return self.tie_word_embeddings or self.text_config.tie_word_embeddings


class Qwen2VLConfig(_FlatTextConfig):
    """Qwen2-VL."""

    vision_config: Qwen2VLVisionConfig = Qwen2VLVisionConfig()


class Qwen25VLConfig(_FlatTextConfig):
    """Qwen2.5-VL."""

    vision_config: Qwen25VLVisionConfig = Qwen25VLVisionConfig()


class Qwen3VLConfig(QwenVLConfig):
    """Qwen3-VL."""

    text_config: Qwen3VLTextConfig = Qwen3VLTextConfig()
    vision_config: Qwen3VLVisionConfig = Qwen3VLVisionConfig()


class Qwen3VLMoeConfig(QwenVLConfig):
    """Qwen3-VL-MoE."""

    text_config: Qwen3VLMoeTextConfig = Qwen3VLMoeTextConfig()
    vision_config: Qwen3VLVisionConfig = Qwen3VLVisionConfig()


def _patch_embedding(config: QwenVisionConfig, *, bias: bool) -> Convolution:
    # A picture is repeated until it fills `temporal_patch_size` frames of a film.
    return Convolution(
        in_channels=config.in_channels,
        out_channels=config.width,
        kernel_size=(config.temporal_patch_size, config.patch_size, config.patch_size),
        bias=bias,
        input_needs_grad=False,
        bucket="embeddings.other",
    )


def _block(config: QwenVisionConfig, norm: Norm, mlp: Node, scores: Node) -> Module:
    attention = Module(
        children={
            "qkv": linear(config.width, 3 * config.width, bias=True),
            "proj": linear(config.width, config.width, bias=True),
            "": scores,
        },
        bucket="attention",
    )
    return Module(children={"norm1": norm, "norm2": norm, "attn": attention, "mlp": mlp})


def _scores(config: QwenVisionConfig) -> Attention:
    head_dim = exact_quotient(config.width, config.num_heads)
    return Attention(num_heads=config.num_heads, qk_head_dim=head_dim, v_head_dim=head_dim, causal=False)


def _tower(config: QwenVisionConfig, blocks: Node, mergers: Mapping[str, Node], *, bias: bool) -> Module:
    """Patches through the blocks; `mergers` see tokens."""
    tokens = Stream(kind="sample", per_sample=config.num_tokens)
    return Module(
        children={
            "patch_embed.proj": _patch_embedding(config, bias=bias),
            "blocks": blocks,
            **{name: Module(children={"": merger}, stream=tokens) for name, merger in mergers.items()},
        },
        stream=Stream(kind="sample", per_sample=config.num_patches),
    )


def _merger(config: QwenVisionConfig, out: Num, norm: Norm, names: tuple[str, str, str]) -> Module:
    """Neighbouring patches side by side, through two matrices."""
    inputs = config.width * config.merged
    children: dict[str, Node] = {
        names[0]: norm,
        names[1]: linear(inputs, inputs, bias=True),
        names[2]: linear(inputs, out, bias=True),
    }
    return Module(children=children, bucket="mlp")


def qwen2_vision(config: Qwen2VLVisionConfig) -> Module:
    """Every patch sees the whole image."""
    norm = layer_norm(config.width)
    block = _block(config, norm, plain_mlp(config.width, config.width * config.mlp_ratio), _scores(config))
    merger = _merger(config, config.hidden_size, norm, ("ln_q", "mlp.0", "mlp.2"))
    return _tower(config, layers(block, config.depth), {"merger": merger}, bias=False)


def qwen25_vision(config: Qwen25VLVisionConfig) -> Module:
    """All but a few layers see one window after the other."""
    norm, mlp = rms_norm(config.width), gated_mlp(config.width, config.intermediate_size, bias=True)
    windows = exact_quotient(config.num_patches, config.window_patches)
    window = Stream(kind="sample", per_sample=config.window_patches)
    in_windows = Module(children={"": _scores(config)}, stream=window, runs=windows)
    full = set(config.fullatt_block_indexes)
    blocks = layer_stack(
        [layer in full for layer in range(config.depth)],
        lambda sees_all: _block(config, norm, mlp, _scores(config) if sees_all else in_windows),
    )
    merger = _merger(config, config.out_hidden_size, norm, ("ln_q", "mlp.0", "mlp.2"))
    return _tower(config, blocks, {"merger": merger}, bias=False)


def qwen3_vision(config: Qwen3VLVisionConfig) -> Module:
    """Learned positions; some layers have a merger of their own, whose norm sees whole tokens."""
    norm = layer_norm(config.width)
    mlp = plain_mlp(config.width, config.intermediate_size, "linear_fc1", "linear_fc2")
    names = ("norm", "linear_fc1", "linear_fc2")
    merger = _merger(config, config.out_hidden_size, norm, names)
    deep = _merger(config, config.out_hidden_size, layer_norm(config.width * config.merged), names)
    mergers: dict[str, Node] = {"merger": merger}
    if config.deepstack_visual_indexes:
        mergers["deepstack_merger_list"] = layers(deep, len(config.deepstack_visual_indexes))
    tower = _tower(config, layers(_block(config, norm, mlp, _scores(config)), config.depth), mergers, bias=True)
    return with_children(tower, {"pos_embed": position_embedding(config.num_position_embeddings, config.width)})


def _qwen3_text(config: Qwen3VLTextConfig) -> Node:
    return decoder(config, windowed_layers(config, lambda window: dense_block(config, window, qk_norm=True)))


def image_text_family(
    model_type: str,
    prefix: str,
    config: type[QwenVLConfig],
    vision: Callable[[Any], Module],
    text: Builder,
) -> Family:
    """Family of a tower called ``visual`` and a decoder.

    Parameters
    ----------
    model_type, prefix : str
        As config.json states it; what the names of its classes begin with.
    config : type of QwenVLConfig
        Keys that it reads.
    vision, text : callable
        Builders of the tower and of the decoder, from their own configs.
    """

    def model(config: QwenVLConfig) -> Module:
        return Module(
            children={
                "visual": image_tower(vision(config.vision_config)),
                "language_model": text(config.text_config),
            }
        )

    def conditional_generation(config: QwenVLConfig) -> Node:
        return text_head(model(config), config.text_config, tied=config.ties_head)

    return Family(
        model_type=model_type,
        config=config,
        classes={f"{prefix}Model": model, f"{prefix}ForConditionalGeneration": conditional_generation},
        default_class=f"{prefix}ForConditionalGeneration",
    )


FAMILIES = (
    image_text_family("qwen2_vl", "Qwen2VL", Qwen2VLConfig, qwen2_vision, llama_model),
    image_text_family("qwen2_5_vl", "Qwen2_5_VL", Qwen25VLConfig, qwen25_vision, llama_model),
    image_text_family("qwen3_vl", "Qwen3VL", Qwen3VLConfig, qwen3_vision, _qwen3_text),
    image_text_family("qwen3_vl_moe", "Qwen3VLMoe", Qwen3VLMoeConfig, qwen3_vision, qwen3_moe_model),
)
