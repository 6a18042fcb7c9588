"""Towers that turn an image into a sequence, and encoders of the same make: ViT, CLIP, SigLIP and their kin."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar

from pydantic import BeforeValidator

from planner.families.blocks import attention, layer_norm, layers, plain_mlp, with_children
from planner.families.config import Dimension, LayerCount, ModelConfig, require, require_divides
from planner.nodes import Attention, Convolution, Module, Node, Stream
from planner.numeric import Num, all_true, exact_quotient


def _square(value: object) -> object:
    """A size may be written as [height, width]; only squares are supported, as in the shipped towers."""
    if isinstance(value, (list, tuple)) and len(value) == 2 and value[0] == value[1]:
        return value[0]
    return value


Side = Annotated[Dimension, BeforeValidator(_square)]
"""Side of a square image or patch. [pixel]"""


DUMPED_KEYS = frozenset({"add_cross_attention", "cross_attention_hidden_size", "tie_encoder_decoder"})
"""Keys that older releases of transformers wrote into every nested config, whether its class asks for them or not."""


class AttendingConfig(ModelConfig):
    """Keys of an encoder without its MLP, whose width some families state and others derive."""

    accepted_keys: ClassVar[frozenset[str]] = DUMPED_KEYS

    hidden_size: Dimension = 768
    num_hidden_layers: LayerCount = 12
    num_attention_heads: Dimension = 12

    def check(self) -> None:
        """Heads must divide the width."""
        require_divides("num_attention_heads", self.num_attention_heads, "hidden_size", self.hidden_size)


class EncoderConfig(AttendingConfig):
    """Keys of a pre-norm encoder with a plain MLP."""

    intermediate_size: Dimension = 3072


class PatchConfig(AttendingConfig):
    """Keys of an encoder over the patches of a square image."""

    num_channels: Dimension = 3
    image_size: Side = 224
    patch_size: Side = 16

    @property
    def num_patches(self) -> Num:
        """Patches of one image, incomplete ones at the border dropped."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def num_positions(self) -> Num:
        """Patches, and the tokens that some towers put beside them."""
        return self.num_patches

    def check(self) -> None:
        """Besides the heads, a patch must fit into the image."""
        super().check()
        require(
            all_true(self.patch_size <= self.image_size),
            "patch_size",
            f"{self.patch_size} pixels, but image_size is {self.image_size}",
        )


class VisionConfig(PatchConfig, EncoderConfig):
    """Keys of an image tower."""


def patch_convolution(config: PatchConfig, stream: Stream, *, bias: bool = True) -> Convolution:
    """One product a patch; `stream` says how many patches there are."""
    return Convolution(
        in_channels=config.num_channels,
        out_channels=config.hidden_size,
        kernel_size=(config.patch_size, config.patch_size),
        bias=bias,
        input_needs_grad=False,
        bucket="embeddings.other",
        stream=stream,
    )


def encoder_block(
    config: AttendingConfig,
    mlp: Node,
    *,
    norms: tuple[str, str] = ("layer_norm1", "layer_norm2"),
    attn: str = "self_attn",
    out_name: str = "out_proj",
    qkv_bias: bool = True,
    out_bias: bool = True,
    causal: bool = False,
) -> Module:
    """Pre-norm block, named as the class names it.

    Parameters
    ----------
    config : AttendingConfig
        Dimensions.
    mlp : Node
        The second sublayer.
    norms : tuple of str
        Norms before the attention and before the MLP.
    attn, out_name : str
        The attention, and its output projection.
    qkv_bias, out_bias : bool
        Which projections have a bias.
    causal : bool
        A text encoder such as CLIP's masks what comes later.
    """
    hidden, heads = config.hidden_size, config.num_attention_heads
    self_attention = attention(
        hidden_size=hidden,
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=exact_quotient(hidden, heads),
        causal=causal,
        qkv_bias=qkv_bias,
        out_bias=out_bias,
        out_name=out_name,
    )
    if causal:
        # A mask, and no decoder: nothing is generated, so that no key is kept.
        scores = self_attention.children[""]
        assert isinstance(scores, Attention)  # noqa: S101 - the products of every attention
        self_attention = with_children(self_attention, {"": replace(scores, caches=False)})
    return Module(
        children={
            norms[0]: layer_norm(hidden),
            attn: self_attention,
            norms[1]: layer_norm(hidden),
            "mlp": mlp,
        }
    )


def encoder_layers(
    config: EncoderConfig,
    *,
    norms: tuple[str, str] = ("layer_norm1", "layer_norm2"),
    attn: str = "self_attn",
    out_name: str = "out_proj",
    qkv_bias: bool = True,
    causal: bool = False,
) -> Node:
    """Every layer of an encoder; see `encoder_block`."""
    mlp = plain_mlp(config.hidden_size, config.intermediate_size)
    block = encoder_block(config, mlp, norms=norms, attn=attn, out_name=out_name, qkv_bias=qkv_bias, causal=causal)
    return layers(block, config.num_hidden_layers)
