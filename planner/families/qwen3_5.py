"""Qwen3.5 and 3.6, dense and with experts: Qwen3-Next's layers, and Qwen3-VL's image tower with a single merger.

FLOPs of the recurrence: those of the gated delta rule, 7 for a token and a number of the state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from operator import attrgetter
from typing import Annotated, Any, ClassVar

from pydantic import AliasChoices, Field

from planner.families.blocks import gated_mlp
from planner.families.config import Count, Dimension, LayerCount, require
from planner.families.decoder import Heads, decoder_classes
from planner.families.family import Builder, Family, Prediction
from planner.families.moe import check_top_k, gated_shared_expert, routed_mlp
from planner.families.qwen3_next import DeltaNetConfig, delta_net_model, delta_net_prediction
from planner.families.qwen_vl import Qwen3VLVisionConfig, QwenVLConfig, image_text_family, qwen3_vision
from planner.nodes import Node
from planner.numeric import Num


class Qwen35TextConfig(DeltaNetConfig):
    """The dense decoder."""

    # Every layer has the same kind of MLP, whatever these say.
    accepted_keys: ClassVar[frozenset[str]] = DeltaNetConfig.accepted_keys | {"mlp_only_layers", "decoder_sparse_step"}

    vocab_size: Dimension = 248320
    intermediate_size: Dimension = 12288
    num_hidden_layers: LayerCount = 32
    num_attention_heads: Dimension = 16
    num_key_value_heads: Dimension | None = 4


class Qwen35MoeTextConfig(Qwen35TextConfig):
    """The decoder with experts in every layer."""

    hidden_size: Dimension = 2048
    num_hidden_layers: LayerCount = 40
    num_key_value_heads: Dimension | None = 2
    moe_intermediate_size: Dimension = 512
    shared_expert_intermediate_size: Dimension = 512
    num_experts: Dimension = Field(256, validation_alias=AliasChoices("num_experts", "num_local_experts"))
    num_experts_per_tok: Dimension = 8

    def check(self) -> None:
        """Besides the layers, no more experts a token than there are."""
        super().check()
        check_top_k("num_experts_per_tok", self.num_experts_per_tok, self.num_experts)


class Qwen35VisionConfig(Qwen3VLVisionConfig):
    """The image tower: none of its layers speaks to the decoder directly."""

    deepstack_visual_indexes: Annotated[list[Count], Field(max_length=1000)] = []  # noqa: RUF012 - pydantic copies it

    def check(self) -> None:
        """The class has no mergers but the last."""
        super().check()
        require(not self.deepstack_visual_indexes, "deepstack_visual_indexes", "expected an empty list")


class Qwen35Config(QwenVLConfig):
    """Qwen3.5 and 3.6."""

    accepted_keys: ClassVar[frozenset[str]] = frozenset({"language_model_only"})

    text_config: Qwen35TextConfig = Qwen35TextConfig()
    vision_config: Qwen35VisionConfig = Qwen35VisionConfig()


class Qwen35MoeConfig(Qwen35Config):
    """The same with experts."""

    text_config: Qwen35MoeTextConfig = Qwen35MoeTextConfig()


def _projections(config: DeltaNetConfig) -> dict[str, Num]:
    heads = config.linear_num_value_heads
    return {
        "in_proj_qkv": 2 * config.key_width + config.value_width,
        "in_proj_z": config.value_width,
        "in_proj_b": heads,
        "in_proj_a": heads,
    }


def _model(config: Qwen35TextConfig, mlp: Node) -> Node:
    return delta_net_model(config, _projections(config), ["mlp"] * config.num_hidden_layers, {"mlp": mlp})


def _mlp(config: Qwen35TextConfig) -> Node:
    if not isinstance(config, Qwen35MoeTextConfig):
        return gated_mlp(config.hidden_size, config.intermediate_size)
    return routed_mlp(
        hidden_size=config.hidden_size,
        num_experts=config.num_experts,
        top_k=config.num_experts_per_tok,
        intermediate_size=config.moe_intermediate_size,
        shared=gated_shared_expert(config.hidden_size, config.shared_expert_intermediate_size),
    )


def qwen3_5_text_model(config: Qwen35TextConfig) -> Node:
    """Delta nets and attention, each with an MLP or with experts."""
    return _model(config, _mlp(config))


def _text_classes(prefix: str, model: Builder) -> Mapping[str, Builder]:
    """The text-only classes; the Model is called TextModel."""
    named = decoder_classes(prefix, model)
    return {f"{prefix}TextModel": model, f"{prefix}ForCausalLM": named[f"{prefix}ForCausalLM"]}


def _with_labels(found: Family, prefix: str) -> Family:
    """The family with the classes that put labels on text or tokens."""
    labels = decoder_classes(
        prefix,
        found.classes[f"{prefix}Model"],
        omit=("Model", "ForCausalLM", "ForQuestionAnswering"),
        heads=Heads(width=attrgetter("text_config.hidden_size")),
    )
    return replace(found, classes={**found.classes, **labels})


def _text_prediction(config: Qwen35TextConfig, _: Mapping[str, Any]) -> Node:
    return delta_net_prediction(config, _mlp(config))


def _with_prediction(found: Family) -> Family:
    """The family of a whole whose decoder's config has the modules."""
    module = Prediction(module=lambda config, raw: _text_prediction(config.text_config, raw), count_keys=COUNT_KEYS)
    return replace(found, prediction=module)


COUNT_KEYS = ("mtp_num_hidden_layers",)
TEXT_PREDICTION = Prediction(module=_text_prediction, count_keys=COUNT_KEYS)

DENSE_TEXT = _text_classes("Qwen3_5", qwen3_5_text_model)
LABELS = decoder_classes("Qwen3_5", qwen3_5_text_model)["Qwen3_5ForSequenceClassification"]

FAMILIES = (
    _with_prediction(
        _with_labels(
            image_text_family("qwen3_5", "Qwen3_5", Qwen35Config, qwen3_vision, qwen3_5_text_model),
            "Qwen3_5",
        )
    ),
    _with_prediction(image_text_family("qwen3_5_moe", "Qwen3_5Moe", Qwen35MoeConfig, qwen3_vision, qwen3_5_text_model)),
    Family(
        model_type="qwen3_5_text",
        config=Qwen35TextConfig,
        classes={**DENSE_TEXT, "Qwen3_5TextForSequenceClassification": LABELS},
        default_class="Qwen3_5ForCausalLM",
        prediction=TEXT_PREDICTION,
    ),
    Family(
        model_type="qwen3_5_moe_text",
        config=Qwen35MoeTextConfig,
        classes=_text_classes("Qwen3_5Moe", qwen3_5_text_model),
        default_class="Qwen3_5MoeForCausalLM",
        prediction=TEXT_PREDICTION,
    ),
)
