"""Nemotron-H and Nemotron-3: each layer is one thing, Mamba-2, attention, an MLP or experts, in any order.

FLOPs of the recurrence: those of Mamba-2's scan, 5 for a token and a number of the state.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import AliasChoices, Field

from planner.families.beside import prediction_module, router_biases, stated_words
from planner.families.blocks import attention, layer_stack, linear, plain_mlp, rms_norm, token_embedding
from planner.families.config import LARGEST_LAYER_COUNT, Dimension, LayerCount, ModelConfig, require, require_divides
from planner.families.decoder import FULL, Heads, decoder_family
from planner.families.family import Prediction
from planner.families.moe import check_top_k, router
from planner.families.recurrence import LEGACY_KINDS, LINEAR, Kinds, mamba2_mixer
from planner.nodes import Experts, Module, Node

MLP = "mlp"
MOE = "moe"
LETTERS = {"M": LINEAR, "*": FULL, "-": MLP, "E": MOE}
"""Kinds of layers in a pattern."""


class NemotronHConfig(ModelConfig):
    """Keys of Nemotron-H and Nemotron-3."""

    # Biases and widths that follow from other keys; MTP layers are in the checkpoint and not in the class.
    accepted_keys: ClassVar[frozenset[str]] = frozenset(
        {
            "attention_bias",
            "attention_head_dim",
            "chunk_size",
            "expand",
            "mamba_proj_bias",
            "max_position_embeddings",
            "moe_shared_expert_overlap",
            "mtp_hybrid_override_pattern",
            "mtp_layers_block_type",
            "n_shared_experts",
            "num_logits_to_keep",
            "num_nextn_predict_layers",
            "rescale_prenorm_residual",
            "residual_in_fp32",
            "sliding_window",
            "use_mamba_kernels",
        }
    )
    column_free_keys: ClassVar[frozenset[str]] = frozenset({"num_hidden_layers"})

    vocab_size: Dimension = 131072
    hidden_size: Dimension = 4096
    num_hidden_layers: LayerCount | None = None
    layers_block_type: Kinds | None = Field(None, validation_alias=AliasChoices("layers_block_type", "layer_types"))
    hybrid_override_pattern: Annotated[str, Field(max_length=LARGEST_LAYER_COUNT)] | None = None
    num_attention_heads: Dimension = 32
    num_key_value_heads: Dimension = 8
    head_dim: Dimension = 128
    intermediate_size: Dimension = 21504
    mlp_bias: bool = False
    ssm_state_size: Dimension = 128
    mamba_num_heads: Dimension = 128
    mamba_head_dim: Dimension = 64
    n_groups: Dimension = Field(8, validation_alias=AliasChoices("n_groups", "mamba_n_groups"))
    conv_kernel: Dimension = Field(4, validation_alias=AliasChoices("conv_kernel", "mamba_d_conv"))
    use_bias: bool = False
    use_conv_bias: bool = Field(True, validation_alias=AliasChoices("use_conv_bias", "mamba_conv_bias"))
    n_routed_experts: Dimension = Field(8, validation_alias=AliasChoices("n_routed_experts", "num_local_experts"))
    num_experts_per_tok: Dimension = 2
    moe_intermediate_size: Dimension = 7688
    moe_shared_expert_intermediate_size: Dimension = 7688
    moe_latent_size: Dimension | None = None

    @property
    def kinds_key(self) -> str:
        """Key that says which layers there are; the list wins over the pattern."""
        return "hybrid_override_pattern" if self.layers_block_type is None else "layers_block_type"

    def kinds(self) -> list[str]:
        """Kind of each layer."""
        if self.layers_block_type is not None:
            return self.layers_block_type
        if self.hybrid_override_pattern is None:
            return [LINEAR, MOE, FULL, MLP]
        return [LETTERS.get(letter, letter) for letter in self.hybrid_override_pattern]

    def check(self) -> None:
        """Heads must divide, every layer must be of a known kind, and there must be as many as the config says."""
        heads = self.num_attention_heads
        require_divides("num_key_value_heads", self.num_key_value_heads, "num_attention_heads", heads)
        require_divides("n_groups", self.n_groups, "mamba_num_heads", self.mamba_num_heads)
        kinds = self.kinds()
        for kind in kinds:
            known = LETTERS if self.layers_block_type is None else LETTERS.values()
            require(kind in LETTERS.values(), self.kinds_key, f"expected one of {', '.join(known)}, got {kind!r}")
        if self.num_hidden_layers is not None:
            require(
                len(kinds) == self.num_hidden_layers,
                "num_hidden_layers",
                f"{self.num_hidden_layers}, but {self.kinds_key} lists {len(kinds)} layers",
            )
        if MOE in kinds:
            check_top_k("num_experts_per_tok", self.num_experts_per_tok, self.n_routed_experts)


def _experts(config: NemotronHConfig) -> Module:
    """Routed experts of two matrices, which may work in a latent, beside a shared one, which does not."""
    hidden, latent = config.hidden_size, config.moe_latent_size
    children: dict[str, Node] = {
        "experts": Experts(
            num_experts=config.n_routed_experts,
            top_k=config.num_experts_per_tok,
            hidden_size=hidden if latent is None else latent,
            intermediate_size=config.moe_intermediate_size,
            gated=False,
        ),
        "gate": router(hidden, config.n_routed_experts),
        "shared_experts": plain_mlp(
            hidden,
            config.moe_shared_expert_intermediate_size,
            "up_proj",
            "down_proj",
            bias=config.mlp_bias,
            bucket="experts.shared",
        ),
    }
    if latent is not None:
        projections: dict[str, Node] = {
            "fc1_latent_proj": linear(hidden, latent, config.mlp_bias),
            "fc2_latent_proj": linear(latent, hidden, config.mlp_bias),
        }
        children |= {
            name: Module(children={"": projection}, bucket="experts.latent_proj")
            for name, projection in projections.items()
        }
    return Module(children=children)


def _mixer(config: NemotronHConfig, kind: str) -> Module:
    hidden = config.hidden_size
    if kind == FULL:
        return attention(
            hidden_size=hidden,
            num_heads=config.num_attention_heads,
            num_kv_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            causal=True,
        )
    if kind == MLP:
        return plain_mlp(hidden, config.intermediate_size, "up_proj", "down_proj", bias=config.mlp_bias)
    if kind == MOE:
        return _experts(config)
    return mamba2_mixer(
        hidden_size=hidden,
        num_heads=config.mamba_num_heads,
        head_dim=config.mamba_head_dim,
        num_groups=config.n_groups,
        state_size=config.ssm_state_size,
        kernel_size=config.conv_kernel,
        bias=config.use_bias,
        conv_bias=config.use_conv_bias,
    )


def _layer(config: NemotronHConfig, kind: str) -> Module:
    return Module(children={"norm": rms_norm(config.hidden_size), "mixer": _mixer(config, kind)})


def nemotron_h_model(config: NemotronHConfig) -> Node:
    """Layers of a norm and a mixer."""
    hidden = config.hidden_size
    return Module(
        children={
            "embeddings": token_embedding(config.vocab_size, hidden),
            "layers": layer_stack(config.kinds(), lambda kind: _layer(config, kind)),
            "norm_f": rms_norm(hidden),
        }
    )


def _prediction(config: NemotronHConfig, raw: Mapping[str, Any]) -> Node:
    """Layers of the kinds that a list or a pattern of their own names, in Nemotron-3 attention and experts."""
    listed = stated_words(raw, "mtp_layers_block_type")
    pattern = stated_words(raw, "mtp_hybrid_override_pattern")
    names = [LETTERS.get(kind, LEGACY_KINDS.get(kind, kind)) for kind in listed or pattern or "*E"]
    for kind in names:
        require(kind in LETTERS.values(), "mtp_layers_block_type", f"expected a kind of layer, got {kind!r}")
    layers: dict[str, Node] = {f"layers.{index}": _layer(config, kind) for index, kind in enumerate(names)}
    norms = ("layers.0.enorm", "layers.0.hnorm", f"layers.{len(names) - 1}.final_layernorm")
    joints = {"layers.0.eh_proj": 2 * config.hidden_size}
    return prediction_module(layers, config.hidden_size, joints=joints, norms=norms)


FAMILIES = (
    decoder_family(
        "nemotron_h",
        "NemotronH",
        NemotronHConfig,
        nemotron_h_model,
        omit=("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering"),
        heads=Heads(table="embeddings"),
        prediction=Prediction(module=_prediction),
        beside=router_biases(nemotron_h_model),
    ),
)
