from collections.abc import Callable, Mapping
from typing import Any

import pytest

from planner.catalog.models import CatalogModel, catalog_models, find_catalog_model
from planner.checkpoint import KINDS, Reconciliation, reconcile
from planner.counts import count
from planner.errors import CatalogError, ConfigError
from planner.families import family
from planner.models import build_model
from planner.sources import ConfigSource

PUBLISHED = [model for model in catalog_models() if model.published_total is not None]

UNEXPLAINED = {
    # 3,416 = 61 layers * 56, and 7168 / 128 = 56 blocks lie side by side in a row of the hidden width. No rule of the
    # hub is known that would count so few of its scales, so that it is no term.
    "moonshotai/Kimi-K2-Instruct": 3_416,
}


def _reconcile(name: str, raw: Mapping[str, Any], class_name: str | None = None) -> Reconciliation:
    return reconcile(build_model(ConfigSource(name=name, raw=raw, origin="test"), class_name=class_name))


def _of_catalog(name: str) -> Reconciliation:
    entry = find_catalog_model(name)
    assert entry is not None
    return _reconcile(entry.id, entry.config)


def _terms(found: Reconciliation) -> dict[str, Any]:
    return {term.kind: term.parameters for term in found.terms}


def _others(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {term.kind: term.parameters for term in _reconcile("unknown", raw).others}


@pytest.mark.parametrize("model", PUBLISHED, ids=lambda model: model.id)
def test_the_class_and_its_terms_sum_to_the_published_total(model: CatalogModel) -> None:
    found = _reconcile(model.id, model.config)
    assert (found.published_total, found.published_source) == (model.published_total, model.published_source)
    assert [term.kind for term in found.terms] == list(model.published_extras)
    assert all(isinstance(term.parameters, int) and term.parameters for term in found.terms)
    assert found.explained + UNEXPLAINED.get(model.id, 0) == model.published_total
    assert found.unexplained == UNEXPLAINED.get(model.id, 0)


def test_every_term_is_named_and_used() -> None:
    used = {kind for model in catalog_models() for kind in model.published_extras}
    assert used <= set(KINDS)
    # What no published total of the catalog holds is tested on its own below.
    assert set(KINDS) - used == {"causal_masks", "position_ids", "logits_bias", "unused_tensors"}


def test_what_a_family_states_is_of_a_named_kind(tiny_type: str, tiny_config: Callable[..., dict[str, Any]]) -> None:
    stated = family(tiny_type)
    raw = tiny_config(tiny_type)
    if stated.beside is not None:
        config = build_model(ConfigSource(name="tiny", raw=raw, origin="test")).config
        assert set(count(stated.beside(config, raw)).breakdown) <= set(KINDS)
    if stated.prediction is not None:
        one, two = (_others({**raw, stated.prediction.count_keys[0]: modules})["mtp"] for modules in (1, 2))
        assert two == 2 * one > 0


@pytest.mark.parametrize(
    ("name", "total", "terms", "published"),
    [
        # mtp: a layer of 11,507,286,016, 2 * 7168^2 that join, 3 norms of 7168; tables: 2 * 129,280 * 7168;
        # biases: 58 layers and the module, 256 experts each; 13,463,426,048 = mtp + tables
        (
            "deepseek-ai/DeepSeek-R1",
            671_026_404_352,
            {
                "mtp": 11_507_286_016 + 2 * 7168**2 + 3 * 7168,
                "mtp_tables": 2 * 129_280 * 7168,
                "router_biases": 59 * 256,
            },
            684_489_845_504,
        ),
        # the same file, counted when the scales of its blocks still were
        (
            "deepseek-ai/DeepSeek-V3",
            671_026_404_352,
            {
                "mtp": 11_507_286_016 + 2 * 7168**2 + 3 * 7168,
                "mtp_tables": 2 * 129_280 * 7168,
                "router_biases": 59 * 256,
                "fp8_block_scales": 41_540_496,
            },
            684_531_386_000,
        ),
        # GLM-4.5 has tables in its module and GLM-4.6 has none; 89 layers and the module, 160 experts each
        (
            "zai-org/GLM-4.5",
            352_797_814_784,
            {
                "mtp": 3_935_625_472 + 2 * 5120**2 + 3 * 5120,
                "mtp_tables": 2 * 151_552 * 5120,
                "router_biases": 90 * 160,
            },
            358_337_791_296,
        ),
        (
            "zai-org/GLM-4.6",
            352_797_814_784,
            {"mtp": 3_935_625_472 + 2 * 5120**2 + 3 * 5120, "router_biases": 90 * 160},
            356_785_898_816,
        ),
        # attention 35,651,584, experts 2,873,098,240, the joint, five norms of 4096
        (
            "nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-FP8",
            120_668_687_360,
            {"mtp": 35_651_584 + 2_873_098_240 + 2 * 4096**2 + 5 * 4096},
            123_611_012_096,
        ),
        # 43 layers of which 3 route by a table of 129,280 tokens * 6 experts, and the module; 256 experts
        (
            "deepseek-ai/DeepSeek-V4-Flash",
            284_332_230_231,
            {"mtp": 6_610_048_635, "router_biases": 41 * 256, "expert_tables": 3 * 129_280 * 6},
            290_944_616_402,
        ),
        # 62 layers of 256 experts; blocks of 128 x 128: 48 * 24 in a layer's attention for q and o, 8 * 24 for k and v,
        # and 3 * 12 * 24 for each expert
        (
            "MiniMaxAI/MiniMax-M2.5",
            228_689_748_992,
            {
                "router_biases": 62 * 256,
                "fp8_block_scales": 62 * (2 * 48 * 24 + 2 * 8 * 24 + 256 * 3 * 12 * 24),
            },
            228_703_644_928,
        ),
        # a layer with attention and experts of 1,642,076,672
        (
            "Qwen/Qwen3-Next-80B-A3B-Instruct",
            79_674_391_296,
            {"mtp": 1_642_076_672 + 2 * 2048**2 + 3 * 2048},
            81_324_862_720,
        ),
        # 65,024 rows of 8192
        ("tiiuae/falcon-40b", 41_303_293_952, {"tied_head_twice": 65_024 * 8192}, 41_835_970_560),
        # 80 layers, 64 pairs of dimensions
        ("huggyllama/llama-65b", 65_285_660_672, {"rotary_frequencies": 80 * 64}, 65_285_665_792),
        # 196 patches and the class token
        ("openai/clip-vit-base-patch16", 149_620_737, {"image_position_ids": 197}, 149_620_934),
        # two tables, two rows, 1024 wide
        ("facebook/bart-large", 406_291_456, {"spare_positions_left_out": -2 * 2 * 1024}, 406_287_360),
        # head: 768^2 + 768, a norm of 2 * 768, 250,002 biases; then two rows of positions and the one of types
        (
            "FacebookAI/xlm-roberta-base",
            278_295_186,
            {"head_left_out": -842_130, "spare_positions_left_out": -2 * 768, "token_types_left_out": -768},
            277_450_752,
        ),
        # 37^2 patches and the class token, 768 wide
        ("facebook/dinov2-base", 86_580_480, {"positions_twice": 1370 * 768}, 87_632_640),
        # one output of 256 and a bias
        ("google/electra-small-generator", 13_549_057, {"last_projection_left_out": -257}, 13_548_800),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_published_totals_term_by_term(name: str, total: int, terms: dict[str, int], published: int) -> None:
    found = _of_catalog(name)
    assert (found.total, _terms(found), found.published_total) == (total, terms, published)


@pytest.mark.parametrize(
    ("raw", "kind", "parameters"),
    [
        # 12 layers, 1024 positions squared: 124,439,808 become the 137,022,720 of the hub
        ({"model_type": "gpt2"}, "causal_masks", 12 * 1024**2),
        # only every other of 12 layers has a window
        (
            {"model_type": "gpt_neo", "hidden_size": 768, "num_layers": 12, "num_heads": 12}
            | {"attention_types": [[["global", "local"], 6]]},
            "causal_masks",
            6 * 2048**2,
        ),
        ({"model_type": "roberta", "max_position_embeddings": 514}, "position_ids", 514),
        # 50,265 tokens: 139,420,416 become the 139,470,681 of the hub
        ({"model_type": "bart", "vocab_size": 50_265}, "logits_bias", 50_265),
        # 32 buckets, 8 heads
        ({"model_type": "t5"}, "unused_tensors", 32 * 8),
        # of 20 layers that look at earlier keys 4 are full, with heads of 512 in place of 256
        (
            {"model_type": "gemma4_text", "hidden_size": 1536, "num_hidden_layers": 35, "num_key_value_heads": 1}
            | {"num_kv_shared_layers": 20, "layer_types": [*["sliding_attention"] * 4, "full_attention"] * 7},
            "unused_tensors",
            16 * (2 * 256 * 1536 + 256) + 4 * (2 * 512 * 1536 + 512),
        ),
        # 151,936 rows of 1024: 596,049,920 become the 751,632,384 of the hub
        (
            {"model_type": "qwen3", "hidden_size": 1024, "tie_word_embeddings": True},
            "tied_head_twice",
            151_936 * 1024,
        ),
        # a dense layer of 110,105,600, the joint, two norms
        (
            {"model_type": "ernie4_5_moe", "num_nextn_predict_layers": 1},
            "mtp",
            110_105_600 + 2 * 2560**2 + 2 * 2560,
        ),
        # the first of 47 layers has no experts, the others 64
        ({"model_type": "glm4_moe_lite"}, "router_biases", 46 * 64),
        # experts that do nothing have biases as well
        ({"model_type": "longcat_flash"}, "router_biases", 28 * (512 + 256)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_a_checkpoint_may_hold(raw: dict[str, Any], kind: str, parameters: int) -> None:
    assert _others(raw)[kind] == parameters


def test_pythia_keeps_masks_and_frequencies() -> None:
    # 12 layers: masks of 2048 positions, frequencies of a quarter of a head of 64; in all 50,331,744
    others = {term.kind: term.parameters for term in _of_catalog("EleutherAI/pythia-160m").others}
    assert others == {"causal_masks": 12 * 2048**2, "rotary_frequencies": 12 * 8}
    assert sum(others.values()) == 50_331_744


def test_gated_t5_stores_nothing_that_it_does_not_use() -> None:
    assert "unused_tensors" not in _others({"model_type": "t5", "feed_forward_proj": "gated-gelu"})


def test_scales_are_listed_where_the_config_says_that_there_are_blocks() -> None:
    raw = {"model_type": "deepseek_v3", "num_nextn_predict_layers": 1}
    assert "fp8_block_scales" not in _others(raw)
    quantised = raw | {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
    assert _others(quantised)["fp8_block_scales"] == 41_540_496


def test_modules_are_as_many_as_the_config_says() -> None:
    raw = {"model_type": "deepseek_v3"}
    none, two = _others(raw), _others(raw | {"num_nextn_predict_layers": 2})
    assert "mtp" not in none
    assert two["mtp"] == 2 * 11_610_067_968
    assert two["router_biases"] == (58 + 2) * 256
    # Kimi-K2 has the same class, and says 0.
    assert "mtp" not in _others({"model_type": "kimi_k2", "num_nextn_predict_layers": 0})


def test_the_kinds_of_a_module_of_nemotron_may_be_a_pattern_or_a_list() -> None:
    raw = {"model_type": "nemotron_h", "num_nextn_predict_layers": 1}
    pattern = _others(raw | {"mtp_hybrid_override_pattern": "*E"})
    assert pattern == _others(raw | {"mtp_layers_block_type": ["attention", "moe"]})
    assert pattern["mtp"] > _others(raw | {"mtp_hybrid_override_pattern": "*"})["mtp"]


@pytest.mark.parametrize(
    "keys",
    [
        {"num_nextn_predict_layers": "one"},
        {"num_nextn_predict_layers": -1},
        {"num_nextn_predict_layers": 1, "mtp_layers_block_type": 7},
        {"num_nextn_predict_layers": 1, "mtp_layers_block_type": ["conv"]},
    ],
    ids=str,
)
def test_a_wrong_key_of_the_checkpoint_is_an_error(keys: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        _others({"model_type": "nemotron_h", **keys})


def test_a_total_is_of_one_config_only() -> None:
    entry = find_catalog_model("deepseek-ai/DeepSeek-R1")
    assert entry is not None
    changed = _reconcile(entry.id, {**entry.config, "num_hidden_layers": 10})
    assert (changed.published_total, changed.unexplained, changed.terms) == (None, None, ())
    assert {term.kind for term in changed.others} == {"mtp", "mtp_tables", "router_biases", "fp8_block_scales"}


def test_a_total_is_explained_from_the_class_that_it_counts() -> None:
    entry = find_catalog_model("bert-base-uncased")
    assert entry is not None
    for class_name in (None, "BertForPreTraining"):
        found = _reconcile(entry.id, entry.config, class_name)
        assert (found.class_name, found.total, found.unexplained) == ("BertModel", 109_482_240, 0)
    # a sibling of the config's own class does not replace the one that is published
    other = find_catalog_model("gpt2")
    assert other is not None
    assert _reconcile(other.id, other.config, "GPT2Model").class_name == "GPT2LMHeadModel"


def test_an_unknown_term_is_an_error_of_the_catalog(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = find_catalog_model("gpt2")
    assert entry is not None
    broken = CatalogModel(
        id=entry.id,
        aliases=(),
        config=entry.config,
        source=entry.source,
        published_total=1,
        published_class=None,
        published_source="test",
        published_extras={"mpt": 1},
    )
    monkeypatch.setattr("planner.checkpoint.find_catalog_model", lambda _: broken)
    with pytest.raises(CatalogError, match="unknown term 'mpt'") as error:
        _reconcile(entry.id, entry.config)
    assert "mtp" in str(error.value.hint)
