"""ModernBERT: an encoder of the Llama kind, with windows on both sides of a token in two layers of three."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from planner.families.blocks import fused_attention, layer_stack, linear, output_head, token_embedding
from planner.families.config import Dimension, LayerCount, ModelConfig, Names, require_divides
from planner.families.decoder import FULL, SLIDING, require_kinds
from planner.families.encoder import head_norm, over_choices, over_samples, over_tokens, with_heads
from planner.families.family import Family
from planner.nodes import LOGITS, ONCE, Module, Node, Norm, Stream
from planner.numeric import Num, exact_quotient


class ModernBertConfig(ModelConfig):
    """Keys of ModernBERT."""

    accepted_keys: ClassVar[frozenset[str]] = frozenset(
        {
            "max_position_embeddings",
            "global_rope_theta",
            "local_rope_theta",
            "classifier_pooling",
            "classifier_activation",
            "deterministic_flash_attn",
            "reference_compile",
            "repad_logits_with_grad",
            "sparse_prediction",
            "sparse_pred_ignore_index",
        }
    )
    column_free_keys: ClassVar[frozenset[str]] = frozenset({"num_hidden_layers", "global_attn_every_n_layers"})

    vocab_size: Dimension = 50368
    hidden_size: Dimension = 768
    intermediate_size: Dimension = 1152
    num_hidden_layers: LayerCount = 22
    num_attention_heads: Dimension = 12
    layer_types: Names | None = None
    global_attn_every_n_layers: Dimension = 3
    local_attention: Dimension = 128
    attention_bias: bool = False
    mlp_bias: bool = False
    norm_bias: bool = False
    decoder_bias: bool = True
    classifier_bias: bool = False
    tie_word_embeddings: bool = True

    def check(self) -> None:
        """Heads must divide the width; the list of layer kinds must be as long as there are layers, and known."""
        require_divides("num_attention_heads", self.num_attention_heads, "hidden_size", self.hidden_size)
        if self.layer_types is not None:
            require_kinds("layer_types", self.layer_types, self.num_hidden_layers, (SLIDING, FULL))

    def kinds(self) -> list[str]:
        """Kind of every layer: the first and every `global_attn_every_n_layers`-th after it are full."""
        if self.layer_types is not None:
            return self.layer_types
        every = self.global_attn_every_n_layers
        return [FULL if layer % every == 0 else SLIDING for layer in range(self.num_hidden_layers)]


@dataclass(frozen=True, slots=True)
class _Kind:
    """What tells layers apart."""

    is_first: bool
    slides: bool


def _norm(config: ModernBertConfig) -> Norm:
    return Norm(dim=config.hidden_size, bias=config.norm_bias)


def _layer(config: ModernBertConfig, kind: _Kind) -> Module:
    hidden, inner = config.hidden_size, config.intermediate_size
    # A token sees `local_attention / 2` others to the left and as many to the right.
    window: Num | None = config.local_attention // 2 + 1 if kind.slides else None
    attention = fused_attention(
        hidden_size=hidden,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_attention_heads,
        head_dim=exact_quotient(hidden, config.num_attention_heads),
        qkv_name="Wqkv",
        out_name="Wo",
        bias=config.attention_bias,
        window=window,
        causal=False,
    )
    mlp = Module(
        children={"Wi": linear(hidden, 2 * inner, config.mlp_bias), "Wo": linear(inner, hidden, config.mlp_bias)},
        bucket="mlp",
    )
    # The norm of the embeddings serves the first layer.
    before: dict[str, Node] = {} if kind.is_first else {"attn_norm": _norm(config)}
    return Module(children={**before, "attn": attention, "mlp_norm": _norm(config), "mlp": mlp})


def _trunk(config: ModernBertConfig) -> Module:
    kinds = [_Kind(position == 0, name == SLIDING) for position, name in enumerate(config.kinds())]
    tokens = token_embedding(config.vocab_size, config.hidden_size)
    return Module(
        children={
            "embeddings": Module(children={"tok_embeddings": tokens, "norm": _norm(config)}),
            "layers": layer_stack(kinds, lambda kind: _layer(config, kind)),
            "final_norm": _norm(config),
        }
    )


def _dense_head(config: ModernBertConfig, stream: Stream | None) -> dict[str, Node]:
    hidden = config.hidden_size
    children: dict[str, Node] = {
        "dense": linear(hidden, hidden, config.classifier_bias),
        "norm": head_norm(hidden, bias=config.norm_bias),
    }
    return {"head": Module(children=children, bucket="other.lm_head", stream=stream)}


def _masked_lm(config: ModernBertConfig) -> Mapping[str, Node]:
    tied_to = "model.embeddings.tok_embeddings" if config.tie_word_embeddings else None
    decoder = output_head(config.hidden_size, config.vocab_size, tied_to, config.decoder_bias)
    return {**_dense_head(config, LOGITS), "decoder": decoder}


FAMILIES = (
    Family(
        model_type="modernbert",
        config=ModernBertConfig,
        classes={
            "ModernBertModel": _trunk,
            "ModernBertForMaskedLM": with_heads("model", _trunk, _masked_lm),
            "ModernBertForSequenceClassification": with_heads(
                "model", _trunk, lambda config: {**_dense_head(config, ONCE), **over_samples()(config)}
            ),
            "ModernBertForMultipleChoice": with_heads(
                "model", _trunk, lambda config: {**_dense_head(config, ONCE), **over_choices()(config)}
            ),
            "ModernBertForTokenClassification": with_heads(
                "model", _trunk, lambda config: {**_dense_head(config, None), **over_tokens("classifier")(config)}
            ),
            "ModernBertForQuestionAnswering": with_heads(
                "model", _trunk, lambda config: {**_dense_head(config, None), **over_tokens("classifier")(config)}
            ),
        },
        default_class="ModernBertForMaskedLM",
    ),
)
