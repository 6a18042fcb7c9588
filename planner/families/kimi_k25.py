"""Kimi-K2.5: an image tower, a projector that merges neighbouring patches, and the decoder of DeepSeek-V3."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import AliasChoices, BeforeValidator, Field

from planner.families.beside import router_biases
from planner.families.blocks import layer_norm, layers, linear, plain_mlp
from planner.families.composed import ImageTextConfig, image_tower, text_head, trunk
from planner.families.config import ByModelType, Dimension, LayerCount, require
from planner.families.decoder import DecoderConfig
from planner.families.deepseek import DeepseekV3Config
from planner.families.family import Family
from planner.families.vision import AttendingConfig, Side, encoder_block
from planner.nodes import Convolution, Module, Node, Norm, Parameter, Stream
from planner.numeric import Num, divides, exact_quotient

Pair = Annotated[list[Dimension], Field(min_length=2, max_length=2)]


class KimiVisionConfig(AttendingConfig):
    """The image tower, under the names of transformers and of the released configs.

    An image counts as large as the table of positions, which is stretched to the size of each real one.
    """

    # How positions, patches and frames are computed is fixed in the class, and the decoder states its own width.
    accepted_keys: ClassVar[frozenset[str]] = AttendingConfig.accepted_keys | {
        "pos_emb_type",
        "pos_emb_time",
        "init_pos_emb_time",
        "merge_type",
        "mm_projector_type",
        "mm_hidden_size",
        "projector_ln_eps",
        "text_hidden_size",
        "video_attn_type",
    }

    hidden_size: Dimension = Field(1152, validation_alias=AliasChoices("hidden_size", "vt_hidden_size"))
    intermediate_size: Dimension = Field(
        4304, validation_alias=AliasChoices("intermediate_size", "vt_intermediate_size")
    )
    num_hidden_layers: LayerCount = Field(
        27, validation_alias=AliasChoices("num_hidden_layers", "vt_num_hidden_layers")
    )
    num_attention_heads: Dimension = Field(
        16, validation_alias=AliasChoices("num_attention_heads", "vt_num_attention_heads")
    )
    patch_size: Side = 14
    pos_emb_height: Dimension = Field(64, validation_alias=AliasChoices("pos_emb_height", "init_pos_emb_height"))
    pos_emb_width: Dimension = Field(64, validation_alias=AliasChoices("pos_emb_width", "init_pos_emb_width"))
    merge_kernel_size: Pair = [2, 2]  # noqa: RUF012 - pydantic copies it

    @property
    def num_patches(self) -> Num:
        """Patches of one image."""
        return self.pos_emb_height * self.pos_emb_width

    @property
    def merged(self) -> Num:
        """Patches that become one token."""
        return self.merge_kernel_size[0] * self.merge_kernel_size[1]

    @property
    def num_tokens(self) -> Num:
        """Tokens of one image."""
        return exact_quotient(self.num_patches, self.merged)

    def check(self) -> None:
        """Besides the heads, whole tokens must tile the image."""
        super().check()
        sides = (self.pos_emb_height, self.pos_emb_width)
        require(
            all(divides(part, side) for part, side in zip(self.merge_kernel_size, sides, strict=True)),
            "merge_kernel_size",
            f"{self.merge_kernel_size[0]} x {self.merge_kernel_size[1]} patches a token do not tile the image",
        )


DeepseekText = Annotated[DecoderConfig, BeforeValidator(ByModelType("deepseek_v3"))]


class KimiK25Config(ImageTextConfig):
    """Keys of Kimi-K2.5 and K2.6."""

    accepted_keys: ClassVar[frozenset[str]] = frozenset(
        {"ignore_index", "use_unified_vision_chunk", "video_placeholder"}
    )

    text_config: DeepseekText = DeepseekV3Config(model_type="deepseek_v3")
    vision_config: KimiVisionConfig = KimiVisionConfig()
    projection_hidden_size: Dimension = 1152
    tie_word_embeddings: bool = True

    @property
    def image_tokens(self) -> Num:
        """Tokens of an image. [token]"""
        return self.vision_config.num_tokens


def _vision_tower(config: KimiVisionConfig) -> Module:
    hidden = config.hidden_size
    convolution = Convolution(
        in_channels=3,
        out_channels=hidden,
        kernel_size=(config.patch_size, config.patch_size),
        input_needs_grad=False,
        bucket="embeddings.other",
    )
    positions = Parameter(shape=(config.pos_emb_height, config.pos_emb_width, hidden), bucket="embeddings.position")
    block = encoder_block(
        config, plain_mlp(hidden, config.intermediate_size), norms=("norm1", "norm2"), attn="attn", out_name="proj"
    )
    return Module(
        children={
            "patch_embed.proj": convolution,
            "patch_embed.pos_emb.position_embeddings": positions,
            "layers": layers(block, config.num_hidden_layers),
            "final_layernorm": layer_norm(hidden),
        },
        stream=Stream(kind="sample", per_sample=config.num_patches),
    )


def kimi_k25_model(config: KimiK25Config) -> Node:
    """Image tower, decoder and projector, which norms patches before it merges them."""
    image = config.vision_config
    merged = image.hidden_size * image.merged
    patches, tokens = (Stream(kind="image", per_sample=count) for count in (image.num_patches, image.num_tokens))
    projector = Module(
        children={
            "pre_norm": Norm(dim=config.projection_hidden_size, bias=True, bucket="projector", stream=patches),
            "in_proj": linear(merged, merged, bias=True),
            "out_proj": linear(merged, config.text_config.hidden_size, bias=True),
        },
        bucket="projector",
        stream=tokens,
    )
    return Module(
        children={
            "vision_tower": image_tower(_vision_tower(image)),
            "language_model": trunk(config.text_config),
            "mm_projector": projector,
        }
    )


def _conditional_generation(config: KimiK25Config) -> Node:
    return text_head(kimi_k25_model(config), config.text_config, tied=config.tie_word_embeddings)


FAMILIES = (
    Family(
        model_type="kimi_k25",
        config=KimiK25Config,
        classes={"Kimi_K25Model": kimi_k25_model, "Kimi_K25ForConditionalGeneration": _conditional_generation},
        default_class="Kimi_K25ForConditionalGeneration",
        beside=router_biases(kimi_k25_model),
    ),
)
