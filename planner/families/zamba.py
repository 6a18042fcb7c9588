"""Zamba: Mamba layers, some of which add what one attention block says; that block is the same in all of them.

FLOPs of the recurrence: those of Mamba's selective scan, 9 for a token and a number of the state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import ClassVar

from planner.families.blocks import attention, gated_mlp, layer_stack, linear, rms_norm, token_embedding, with_children
from planner.families.config import Count, Dimension, LayerCount, ModelConfig, require, require_divides
from planner.families.decoder import decoder_classes
from planner.families.family import Builder, Family
from planner.families.recurrence import LINEAR, Kinds, Rank, mamba_mixer, step_rank
from planner.nodes import Embedding, Linear, Module, Node, Norm, Parameter, Stack, Tied
from planner.numeric import Num, exact_quotient

HYBRID = "hybrid"
PLAIN_START = 3
"""The rule for the positions of hybrid layers starts after these, the last of which is one."""


class ZambaConfig(ModelConfig):
    """Keys of Zamba 1."""

    accepted_keys: ClassVar[frozenset[str]] = frozenset(
        {"max_position_embeddings", "use_mamba_kernels", "use_associative_scan", "num_logits_to_keep"}
    )
    column_free_keys: ClassVar[frozenset[str]] = frozenset(
        {"num_hidden_layers", "attn_layer_period", "attn_layer_offset"}
    )

    vocab_size: Dimension = 32000
    hidden_size: Dimension = 3712
    attention_hidden_size: Dimension | None = None
    intermediate_size: Dimension = 14848
    num_hidden_layers: LayerCount = 76
    num_attention_heads: Dimension = 16
    num_key_value_heads: Dimension = 16
    attention_head_dim: Dimension | None = None
    n_mamba_heads: Dimension = 2
    mamba_d_state: Dimension = 16
    mamba_d_conv: Dimension = 4
    mamba_expand: Dimension = 2
    mamba_dt_rank: Rank = None
    mamba_conv_bias: bool = True
    mamba_proj_bias: bool = False
    attn_layer_period: Dimension = 6
    attn_layer_offset: Count = 4
    layers_block_type: Kinds | None = None
    tie_word_embeddings: bool = True

    @property
    def attention_width(self) -> Num:
        """What the attention block reads: a layer's input beside the embeddings, unless the config says otherwise."""
        return 2 * self.hidden_size if self.attention_hidden_size is None else self.attention_hidden_size

    @property
    def head_width(self) -> Num:
        """Width of an attention head."""
        if self.attention_head_dim is not None:
            return self.attention_head_dim
        return exact_quotient(2 * self.hidden_size, self.num_attention_heads)

    def kinds(self) -> list[str]:
        """Kind of each layer."""
        if self.layers_block_type is not None:
            return self.layers_block_type
        rest = [
            HYBRID if layer % self.attn_layer_period == self.attn_layer_offset else LINEAR
            for layer in range(self.num_hidden_layers - PLAIN_START)
        ]
        return [LINEAR, LINEAR, HYBRID, *rest]

    def check(self) -> None:
        """Heads must divide their widths, and the list of layers must be as long as there are layers, and known."""
        require_divides(
            "num_key_value_heads", self.num_key_value_heads, "num_attention_heads", self.num_attention_heads
        )
        if self.attention_head_dim is None:
            require_divides("num_attention_heads", self.num_attention_heads, "2 * hidden_size", 2 * self.hidden_size)
        inner = self.mamba_expand * self.hidden_size
        require_divides("n_mamba_heads", self.n_mamba_heads, "mamba_expand * hidden_size", inner)
        if self.layers_block_type is None:
            require(self.num_hidden_layers >= PLAIN_START, "num_hidden_layers", "expected 3 or more")
            return
        require(
            len(self.layers_block_type) == self.num_hidden_layers,
            "layers_block_type",
            f"lists {len(self.layers_block_type)} layers, but num_hidden_layers is {self.num_hidden_layers}",
        )
        for kind in self.layers_block_type:
            require(kind in (LINEAR, HYBRID), "layers_block_type", f"expected {LINEAR} or {HYBRID}, got {kind!r}")


def _headed_mixer(config: ZambaConfig) -> Module:
    """Mamba's mixer in independent heads, whose inner projections are bare tensors, one matrix a head."""
    hidden, heads, state = config.hidden_size, config.n_mamba_heads, config.mamba_d_state
    inner = config.mamba_expand * hidden
    width = exact_quotient(inner, heads)
    rank = step_rank(config.mamba_dt_rank, hidden)
    mixer = mamba_mixer(
        hidden_size=hidden,
        inner_size=inner,
        state_size=state,
        rank=rank,
        kernel_size=config.mamba_d_conv,
        bias=config.mamba_proj_bias,
        conv_bias=config.mamba_conv_bias,
    )
    of_input = Linear(
        in_features=inner, out_features=heads * (rank + 2 * state), blocks=heads, weight_name="x_proj_weight"
    )
    of_step = Linear(
        in_features=heads * rank,
        out_features=inner,
        bias=True,
        blocks=heads,
        weight_name="dt_proj_weight",
        bias_name="dt_proj_bias",
    )
    kept = {name: child for name, child in mixer.children.items() if name not in ("x_proj", "dt_proj")}
    own: dict[str, Node] = {
        "A_log": Parameter(shape=(heads, width, state)),
        "D": Parameter(shape=(heads, width)),
        "": Stack(parts=(of_input, of_step, kept[""])),
    }
    return replace(mixer, children={**kept, **own})


def _attention_block(config: ZambaConfig) -> Module:
    hidden, width = config.hidden_size, config.attention_width
    heads, head_width = config.num_attention_heads, config.head_width
    attends = attention(
        hidden_size=width,
        num_heads=heads,
        num_kv_heads=config.num_key_value_heads,
        head_dim=head_width,
        causal=True,
    )
    return Module(
        children={
            "self_attn": with_children(attends, {"o_proj": linear(heads * head_width, hidden)}),
            "feed_forward": gated_mlp(hidden, config.intermediate_size),
            "input_layernorm": rms_norm(width),
            "pre_ff_layernorm": rms_norm(hidden),
        }
    )


def _shared(node: Node, path: str) -> Node:
    """The same modules once more, with the weights of those at `path`."""
    if isinstance(node, Module):
        return replace(node, children=_shared_children(node.children, path))
    if isinstance(node, (Linear, Embedding, Norm)):
        return Tied(module=node, to=path)
    return node


def _shared_children(children: Mapping[str, Node], path: str) -> dict[str, Node]:
    return {name: _shared(child, f"{path}.{name}") for name, child in children.items()}


def zamba_model(config: ZambaConfig, prefix: str = "") -> Node:
    """Mamba layers, and before some of them the one attention block and a projection of their own.

    Parameters
    ----------
    config : ZambaConfig
        Dimensions.
    prefix : str
        Where the model stands inside its class, with a dot at the end.
    """
    hidden, kinds = config.hidden_size, config.kinds()
    # transformers shares the block by the same switch as the output matrix: without it, each layer has its own
    first = kinds.index(HYBRID) if HYBRID in kinds and config.tie_word_embeddings else None
    mamba = Module(children={"mamba": _headed_mixer(config), "input_layernorm": rms_norm(hidden)})
    block = _attention_block(config)

    def layer(kind: tuple[str, bool]) -> Node:
        name, borrows = kind
        if name == LINEAR:
            return mamba
        attends = _shared(block, f"{prefix}layers.{first}.shared_transf") if borrows else block
        return Module(
            children={"shared_transf": attends, "linear": linear(hidden, hidden), "mamba_decoder": mamba},
        )

    return Module(
        children={
            "embed_tokens": token_embedding(config.vocab_size, hidden),
            "layers": layer_stack(
                [(kind, kind == HYBRID and first is not None and at > first) for at, kind in enumerate(kinds)], layer
            ),
            "final_layernorm": rms_norm(hidden),
        }
    )


def _classes() -> Mapping[str, Builder]:
    omit = ("Model", "ForTokenClassification", "ForQuestionAnswering")
    return {
        "ZambaModel": zamba_model,
        **decoder_classes("Zamba", partial(zamba_model, prefix="model."), omit=omit),
    }


FAMILIES = (Family(model_type="zamba", config=ZambaConfig, classes=_classes(), default_class="ZambaForCausalLM"),)
