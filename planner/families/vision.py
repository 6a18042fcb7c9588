"""Towers that turn an image into a sequence: ViT and SigLIP."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator

from planner.families.blocks import attention, layer_norm, layers, linear
from planner.families.config import Dimension, LayerCount, ModelConfig, require, require_divides
from planner.nodes import Convolution, Module, Node, Stream
from planner.numeric import Num, all_true, exact_quotient


def _square(value: object) -> object:
    """A size may be written as [height, width]; only squares are supported, as in the shipped towers."""
    if isinstance(value, (list, tuple)) and len(value) == 2 and value[0] == value[1]:
        return value[0]
    return value


Side = Annotated[Dimension, BeforeValidator(_square)]
"""Side of a square image or patch. [pixel]"""


class VisionConfig(ModelConfig):
    """Keys of an image tower."""

    hidden_size: Dimension = 768
    intermediate_size: Dimension = 3072
    num_hidden_layers: LayerCount = 12
    num_attention_heads: Dimension = 12
    num_channels: Dimension = 3
    image_size: Side = 224
    patch_size: Side = 16

    @property
    def num_patches(self) -> Num:
        """Patches of one image, incomplete ones at the border dropped."""
        return (self.image_size // self.patch_size) ** 2

    def check(self) -> None:
        """Heads must divide the width, and a patch must fit into the image."""
        require_divides("num_attention_heads", self.num_attention_heads, "hidden_size", self.hidden_size)
        require(
            all_true(self.patch_size <= self.image_size),
            "patch_size",
            f"{self.patch_size} pixels, but image_size is {self.image_size}",
        )


def patch_convolution(config: VisionConfig, stream: Stream) -> Convolution:
    """One product a patch; `stream` says how many patches there are."""
    return Convolution(
        in_channels=config.num_channels,
        out_channels=config.hidden_size,
        kernel_size=(config.patch_size, config.patch_size),
        input_needs_grad=False,
        bucket="embeddings.other",
        stream=stream,
    )


def encoder_layers(config: VisionConfig, *, norms: tuple[str, str], attn: str, out_name: str, qkv_bias: bool) -> Node:
    """Pre-norm blocks with full attention, named as the class names them."""
    hidden, heads = config.hidden_size, config.num_attention_heads
    block = Module(
        children={
            norms[0]: layer_norm(hidden),
            attn: attention(
                hidden_size=hidden,
                num_heads=heads,
                num_kv_heads=heads,
                head_dim=exact_quotient(hidden, heads),
                causal=False,
                qkv_bias=qkv_bias,
                out_bias=True,
                out_name=out_name,
            ),
            norms[1]: layer_norm(hidden),
            "mlp": Module(
                children={
                    "fc1": linear(hidden, config.intermediate_size, bias=True),
                    "fc2": linear(config.intermediate_size, hidden, bias=True),
                },
                bucket="mlp",
            ),
        }
    )
    return layers(block, config.num_hidden_layers)
