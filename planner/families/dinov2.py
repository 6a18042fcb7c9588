"""DINOv2, with and without registers: ViT with a learned scale behind each sublayer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from planner.families.blocks import gated_mlp, layer_norm, layers, plain_mlp, with_children
from planner.families.config import Dimension
from planner.families.family import Builder, Family
from planner.families.heads import head
from planner.families.vision import PatchConfig, Side, encoder_block, patch_convolution
from planner.nodes import Module, Node, Parameter, Stream
from planner.numeric import Num, ceil_div


class Dinov2Config(PatchConfig):
    """DINOv2: the MLP is `mlp_ratio` times as wide as the model, and a gated one two thirds of that."""

    # What a backbone of another model hands on, and in which form.
    accepted_keys: ClassVar[frozenset[str]] = PatchConfig.accepted_keys | {
        "apply_layernorm",
        "layerscale_value",
        "out_features",
        "out_indices",
        "reshape_hidden_states",
        "stage_names",
    }

    patch_size: Side = 14
    mlp_ratio: Dimension = 4
    qkv_bias: bool = True
    use_swiglu_ffn: bool = False
    use_mask_token: bool = True

    @property
    def num_positions(self) -> Num:
        """Patches and the class token."""
        return self.num_patches + 1


class Dinov2WithRegistersConfig(Dinov2Config):
    """DINOv2 with registers, which always has a mask token."""

    patch_size: Side = 16
    num_register_tokens: Dimension = 4

    @property
    def num_positions(self) -> Num:
        """Patches, the class token and the registers."""
        return self.num_patches + 1 + self.num_register_tokens


def _mlp(config: Dinov2Config) -> Node:
    inner = config.hidden_size * config.mlp_ratio
    if config.use_swiglu_ffn:
        # Two thirds, rounded down, and that rounded up to a multiple of 8.
        return gated_mlp(config.hidden_size, ceil_div(2 * inner // 3, 8) * 8, bias=True)
    return plain_mlp(config.hidden_size, inner)


def _block(config: Dinov2Config) -> Module:
    block = encoder_block(
        config,
        _mlp(config),
        norms=("norm1", "norm2"),
        attn="attention",
        out_name="o_proj",
        qkv_bias=config.qkv_bias,
    )
    scale = Parameter(shape=(config.hidden_size,), bucket="norms")
    return with_children(block, {"layer_scale1.lambda1": scale, "layer_scale2.lambda1": scale})


def dinov2_model(config: Dinov2Config) -> Module:
    """Class token, registers if any, and patches through pre-norm blocks."""
    hidden, patches = config.hidden_size, config.num_patches
    embeddings: dict[str, Node] = {
        "cls_token": Parameter(shape=(1, 1, hidden), bucket="embeddings.other"),
        "patch_embeddings.projection": patch_convolution(config, Stream(kind="sample", per_sample=patches)),
        "position_embeddings": Parameter(shape=(1, patches + 1, hidden), bucket="embeddings.position"),
    }
    if config.use_mask_token:
        embeddings["mask_token"] = Parameter(shape=(1, hidden), bucket="embeddings.other")
    if isinstance(config, Dinov2WithRegistersConfig):
        embeddings["register_tokens"] = Parameter(
            shape=(1, config.num_register_tokens, hidden), bucket="embeddings.other"
        )
    return Module(
        children={
            "embeddings": Module(children=embeddings),
            "encoder.layer": layers(_block(config), config.num_hidden_layers),
            "layernorm": layer_norm(hidden),
        },
        stream=Stream(kind="sample", per_sample=config.num_positions),
    )


def _classes(prefix: str, name: str) -> Mapping[str, Builder]:
    def image_classification(config: Dinov2Config) -> Node:
        # It sees the class token beside the mean of the patches.
        classifier = head(2 * config.hidden_size, config.num_labels, once=True)
        return Module(children={name: dinov2_model(config), "classifier": classifier})

    return {
        f"{prefix}Model": dinov2_model,
        f"{prefix}ForImageClassification": image_classification,
        f"{prefix}Backbone": dinov2_model,
    }


FAMILIES = (
    Family(
        model_type="dinov2",
        config=Dinov2Config,
        classes=_classes("Dinov2", "dinov2"),
        default_class="Dinov2Model",
    ),
    Family(
        model_type="dinov2_with_registers",
        config=Dinov2WithRegistersConfig,
        classes=_classes("Dinov2WithRegisters", "dinov2_with_registers"),
        default_class="Dinov2WithRegistersModel",
    ),
)
