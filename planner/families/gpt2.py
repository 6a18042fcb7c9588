"""GPT-2: pre-norm decoder with learned positions and fused q, k, v, its weights stored transposed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import AliasChoices, Field

from planner.families.beside import causal_masks
from planner.families.blocks import layer_norm, layers, output_head, position_embedding, token_embedding
from planner.families.config import Dimension, LayerCount, ModelConfig, require, require_divides
from planner.families.family import Builder, Family
from planner.families.heads import head
from planner.nodes import Attention, Linear, Module, Node
from planner.numeric import Num, exact_quotient


class GPT2Config(ModelConfig):
    """Keys of GPT-2; the class accepts the common names as well."""

    vocab_size: Dimension = 50257
    n_positions: Dimension = Field(1024, validation_alias=AliasChoices("n_positions", "max_position_embeddings"))
    n_embd: Dimension = Field(768, validation_alias=AliasChoices("n_embd", "hidden_size"))
    n_layer: LayerCount = Field(12, validation_alias=AliasChoices("n_layer", "num_hidden_layers"))
    n_head: Dimension = Field(12, validation_alias=AliasChoices("n_head", "num_attention_heads"))
    n_inner: Dimension | None = None
    add_cross_attention: bool = False
    summary_use_proj: bool = True
    summary_proj_to_labels: bool = True
    tie_word_embeddings: bool = True

    @property
    def inner(self) -> Num:
        """Width of the MLP: four times the model's where the config does not say."""
        return 4 * self.n_embd if self.n_inner is None else self.n_inner

    def check(self) -> None:
        """Heads must divide the width; cross-attention is not built."""
        require_divides("n_head", self.n_head, "n_embd", self.n_embd)
        require(not self.add_cross_attention, "add_cross_attention", "cross-attention layers are not supported")


def _conv1d(in_features: Num, out_features: Num) -> Linear:
    """Transformers' Conv1D: a linear layer whose weight is stored as (in, out)."""
    return Linear(in_features=in_features, out_features=out_features, bias=True, transposed=True)


def gpt2_model(config: GPT2Config) -> Node:
    """Tables, blocks and a last norm."""
    width, inner = config.n_embd, config.inner
    head_dim = exact_quotient(width, config.n_head)
    attention = Module(
        children={
            "c_attn": _conv1d(width, 3 * width),
            "c_proj": _conv1d(width, width),
            "": Attention(num_heads=config.n_head, qk_head_dim=head_dim, v_head_dim=head_dim, causal=True),
        },
        bucket="attention",
    )
    mlp = Module(children={"c_fc": _conv1d(width, inner), "c_proj": _conv1d(inner, width)}, bucket="mlp")
    block = Module(children={"ln_1": layer_norm(width), "attn": attention, "ln_2": layer_norm(width), "mlp": mlp})
    return Module(
        children={
            "wte": token_embedding(config.vocab_size, width),
            "wpe": position_embedding(config.n_positions, width),
            "h": layers(block, config.n_layer),
            "ln_f": layer_norm(width),
        }
    )


def _lm_head(config: GPT2Config) -> Node:
    tied_to = "transformer.wte" if config.tie_word_embeddings else None
    return output_head(config.n_embd, config.vocab_size, tied_to)


def _double_heads(config: GPT2Config) -> Node:
    children: dict[str, Node] = {"transformer": gpt2_model(config), "lm_head": _lm_head(config)}
    if config.summary_use_proj:
        # DoubleHeadsModel sets num_labels to 1
        outputs = 1 if config.summary_proj_to_labels else config.n_embd
        children["multiple_choice_head"] = Module(children={"summary": head(config.n_embd, outputs, once=True)})
    return Module(children=children)


CLASSES: Mapping[str, Builder] = {
    "GPT2Model": gpt2_model,
    "GPT2LMHeadModel": lambda config: Module(children={"transformer": gpt2_model(config), "lm_head": _lm_head(config)}),
    "GPT2DoubleHeadsModel": _double_heads,
    "GPT2ForSequenceClassification": lambda config: Module(
        children={"transformer": gpt2_model(config), "score": head(config.n_embd, config.num_labels, bias=False)}
    ),
    "GPT2ForTokenClassification": lambda config: Module(
        children={"transformer": gpt2_model(config), "classifier": head(config.n_embd, config.num_labels)}
    ),
    "GPT2ForQuestionAnswering": lambda config: Module(
        children={"transformer": gpt2_model(config), "qa_outputs": head(config.n_embd, 2)}
    ),
}


def _masks(config: GPT2Config, _: Mapping[str, Any]) -> Node:
    return Module(children={"h": causal_masks(config.n_layer, config.n_positions)})


FAMILIES = (
    Family(model_type="gpt2", config=GPT2Config, classes=CLASSES, default_class="GPT2LMHeadModel", beside=_masks),
)
