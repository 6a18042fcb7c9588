"""Mamba, Falcon-Mamba and Mamba-2: nothing but a norm and a mixer in each layer.

FLOPs of the recurrence, for a token and a number of the state: 9 in the selective scan of Mamba and Falcon-Mamba, 5 in
Mamba-2's; see `planner.formulas.flops`.
"""

from __future__ import annotations

from typing import ClassVar

from planner.families.blocks import layers, rms_norm, token_embedding
from planner.families.config import Dimension, LayerCount, ModelConfig, require, require_divides
from planner.families.decoder import Heads, decoder_family
from planner.families.recurrence import Rank, mamba2_mixer, mamba_mixer, step_rank
from planner.nodes import Module, Node
from planner.numeric import Num, all_true, is_symbol


class StateSpaceConfig(ModelConfig):
    """Keys that all of them have."""

    # what the authors' own code calls it, and rules of that code
    accepted_keys: ClassVar[frozenset[str]] = frozenset(
        {
            "d_model",
            "d_inner",
            "n_layer",
            "ssm_cfg",
            "rms_norm",
            "fused_add_norm",
            "residual_in_fp32",
            "rescale_prenorm_residual",
            "pad_vocab_size_multiple",
            "use_mambapy",
            "use_falcon_mambapy",
            "use_associative_scan",
        }
    )

    vocab_size: Dimension = 50280
    hidden_size: Dimension = 768
    state_size: Dimension = 16
    num_hidden_layers: LayerCount = 32
    expand: Dimension = 2
    conv_kernel: Dimension = 4
    use_bias: bool = False
    use_conv_bias: bool = True


class MambaConfig(StateSpaceConfig):
    """Mamba and Falcon-Mamba, whose norms inside the mixer have no parameters."""

    accepted_keys: ClassVar[frozenset[str]] = StateSpaceConfig.accepted_keys | {"mixer_rms_eps"}

    intermediate_size: Dimension | None = None
    time_step_rank: Rank = None
    tie_word_embeddings: bool = True

    @property
    def inner_size(self) -> Num:
        """Channels of the scan: `intermediate_size`, or `expand * hidden_size` where the config does not say."""
        return self.expand * self.hidden_size if self.intermediate_size is None else self.intermediate_size


class Mamba2Config(StateSpaceConfig):
    """Mamba-2, whose width inside follows from its heads."""

    accepted_keys: ClassVar[frozenset[str]] = StateSpaceConfig.accepted_keys | {
        "intermediate_size",
        "chunk_size",
        "norm_before_gate",
        "time_step_rank",
    }

    vocab_size: Dimension = 32768
    hidden_size: Dimension = 4096
    state_size: Dimension = 128
    num_hidden_layers: LayerCount = 64
    num_heads: Dimension = 128
    head_dim: Dimension = 64
    n_groups: Dimension = 8

    def check(self) -> None:
        """The heads must be as wide as the expanded model, and groups must share them evenly."""
        inner, expanded = self.num_heads * self.head_dim, self.expand * self.hidden_size
        require(
            is_symbol(inner) or all_true(inner == expanded),
            "num_heads",
            f"num_heads * head_dim is {inner}, but expand * hidden_size is {expanded}",
        )
        require_divides("n_groups", self.n_groups, "num_heads", self.num_heads)


def _model(config: StateSpaceConfig, mixer: Node) -> Module:
    hidden = config.hidden_size
    return Module(
        children={
            "embeddings": token_embedding(config.vocab_size, hidden),
            "layers": layers(
                Module(children={"norm": rms_norm(hidden), "mixer": mixer}),
                config.num_hidden_layers,
            ),
            "norm_f": rms_norm(hidden),
        }
    )


def mamba_model(config: MambaConfig) -> Node:
    """Layers with a selective scan."""
    mixer = mamba_mixer(
        hidden_size=config.hidden_size,
        inner_size=config.inner_size,
        state_size=config.state_size,
        rank=step_rank(config.time_step_rank, config.hidden_size),
        kernel_size=config.conv_kernel,
        bias=config.use_bias,
        conv_bias=config.use_conv_bias,
    )
    return _model(config, mixer)


def mamba2_model(config: Mamba2Config) -> Node:
    """Layers with Mamba-2's scan."""
    mixer = mamba2_mixer(
        hidden_size=config.hidden_size,
        num_heads=config.num_heads,
        head_dim=config.head_dim,
        num_groups=config.n_groups,
        state_size=config.state_size,
        kernel_size=config.conv_kernel,
        bias=config.use_bias,
        conv_bias=config.use_conv_bias,
    )
    return _model(config, mixer)


BACKBONE = Heads(base="backbone", table="embeddings")
LANGUAGE_ONLY = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")

FAMILIES = (
    decoder_family("mamba", "Mamba", MambaConfig, mamba_model, omit=LANGUAGE_ONLY, heads=BACKBONE),
    decoder_family("falcon_mamba", "FalconMamba", MambaConfig, mamba_model, omit=LANGUAGE_ONLY, heads=BACKBONE),
    decoder_family("mamba2", "Mamba2", Mamba2Config, mamba2_model, omit=LANGUAGE_ONLY, heads=BACKBONE),
)
