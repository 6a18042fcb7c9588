"""ViT: patches of an image and a class token through a pre-norm encoder."""

from __future__ import annotations

from planner.families.blocks import layer_norm
from planner.families.config import Dimension
from planner.families.family import Family
from planner.families.heads import head, pooler
from planner.families.vision import VisionConfig, encoder_layers, patch_convolution
from planner.nodes import Convolution, Module, Node, Parameter, Stream
from planner.numeric import Num


class ViTConfig(VisionConfig):
    """Keys of ViT."""

    qkv_bias: bool = True
    pooler_output_size: Dimension | None = None
    encoder_stride: Dimension = 16

    @property
    def pooler_width(self) -> Num:
        """As wide as the model where the config does not say."""
        return self.hidden_size if self.pooler_output_size is None else self.pooler_output_size


def _trunk(config: ViTConfig, *, with_pooler: bool, mask_token: bool = False) -> Module:
    hidden, positions = config.hidden_size, config.num_patches + 1
    embeddings: dict[str, Node] = {
        "cls_token": Parameter(shape=(1, 1, hidden), bucket="embeddings.other"),
        "position_embeddings": Parameter(shape=(1, positions, hidden), bucket="embeddings.position"),
        "patch_embeddings.projection": patch_convolution(config, Stream(kind="sample", per_sample=config.num_patches)),
    }
    if mask_token:
        embeddings["mask_token"] = Parameter(shape=(1, 1, hidden), bucket="embeddings.other")
    norms = ("layernorm_before", "layernorm_after")
    children: dict[str, Node] = {
        "embeddings": Module(children=embeddings),
        "layers": encoder_layers(config, norms=norms, attn="attention", out_name="o_proj", qkv_bias=config.qkv_bias),
        "layernorm": layer_norm(hidden),
    }
    if with_pooler:
        children["pooler"] = pooler(hidden, config.pooler_width)
    return Module(children=children, stream=Stream(kind="sample", per_sample=positions))


def _image_classification(config: ViTConfig) -> Node:
    classifier = head(config.hidden_size, config.num_labels, once=True)
    return Module(children={"vit": _trunk(config, with_pooler=False), "classifier": classifier})


def _masked_image_modeling(config: ViTConfig) -> Node:
    decoder = Convolution(
        in_channels=config.hidden_size,
        out_channels=config.encoder_stride**2 * config.num_channels,
        kernel_size=(1, 1),
        bucket="other.lm_head",
        stream=Stream(kind="sample", per_sample=config.num_patches),
    )
    trunk = _trunk(config, with_pooler=False, mask_token=True)
    return Module(children={"vit": trunk, "decoder.0": decoder})


FAMILIES = (
    Family(
        model_type="vit",
        config=ViTConfig,
        classes={
            "ViTModel": lambda config: _trunk(config, with_pooler=True),
            "ViTForImageClassification": _image_classification,
            "ViTForMaskedImageModeling": _masked_image_modeling,
        },
        default_class="ViTForImageClassification",
    ),
)
