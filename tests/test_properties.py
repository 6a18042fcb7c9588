"""What holds for every family and every shape: sums, differences, columns, symbols; and that bad configs are refused.

Every draw is derandomized: a failure here is a change in the code, never the luck of a seed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import product
from typing import Any, TypeAlias

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from planner.compute import CONVENTIONS, Compute, compute
from planner.counts import count
from planner.errors import PlannerError, UnsupportedError
from planner.explain import block_formulas, module_lines
from planner.families import MODEL_TYPES, family_of
from planner.families.config import ModelConfig, dimension_names, field_of, known_keys, nested_kind, spellings
from planner.models import Model, build_model, with_overrides
from planner.nodes import Attention, Node, walk
from planner.sources import ConfigSource, parse_config, read_config_file
from planner.workload import Step

TinyConfig: TypeAlias = Callable[..., dict[str, Any]]
Raw: TypeAlias = Mapping[str, Any]

LLAMA_SHAPE: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_attention_heads": 6,
    "num_hidden_layers": 3,
    "vocab_size": 99,
}

DECI_BLOCK: dict[str, Any] = {
    "attention": {"n_heads_in_group": 3, "no_op": False, "replace_with_linear": False, "sparsify": None},
    "ffn": {"ffn_mult": 1.5, "no_op": False, "replace_with_linear": False, "sparsify": None},
}

WITHOUT_CLASS: dict[str, dict[str, Any]] = {
    "exaone": {**LLAMA_SHAPE, "num_key_value_heads": 2},
    "internlm": LLAMA_SHAPE,
    "internlm2": {**LLAMA_SHAPE, "num_key_value_heads": 2},
    "nemotron-nas": {**LLAMA_SHAPE, "block_configs": [DECI_BLOCK, DECI_BLOCK, DECI_BLOCK]},
    "orion": {**LLAMA_SHAPE, "num_key_value_heads": 2},
    "phi3small": {**LLAMA_SHAPE, "num_key_value_heads": 2},
    "pixtral": {
        "hidden_size": 40,
        "image_size": 32,
        "intermediate_size": 56,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "patch_size": 8,
    },
    "qwen": {**LLAMA_SHAPE, "kv_channels": 8},
}
"""Small configs of the types that transformers has no class for, or none with a head of its own."""

LAYER_KEYS = frozenset(
    {
        "decoder_layers",
        "depth",
        "encoder_layers",
        "n_layer",
        "n_layers",
        "num_decoder_layers",
        "num_hidden_layers",
        "num_layers",
    }
)

QUIET = settings(
    deadline=None,
    derandomize=True,
    database=None,
    # the fixture holds constants
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture
def base(model_type: str, tiny_config: TinyConfig) -> Raw:
    """Small config of the family under test."""
    if model_type in WITHOUT_CLASS:
        return {"model_type": model_type, **WITHOUT_CLASS[model_type]}
    if model_type == "minimax_m3":
        return tiny_config("minimax_m3_vl_text") | {"model_type": model_type}
    return tiny_config(model_type)


def _model(raw: Raw) -> Model:
    return build_model(ConfigSource(name="drawn", raw=raw, origin="config.json"))


def _refusal(question: Callable[[], object]) -> PlannerError | None:
    """The error that answers a question, or None where it has an answer; any other exception comes through."""
    try:
        question()
    except PlannerError as error:
        return error
    return None


def _is_valid(raw: Raw) -> bool:
    return _refusal(lambda: _model(raw)) is None


def _parts(kind: type[ModelConfig], raw: Raw, prefix: str = "") -> Iterator[tuple[str, type[ModelConfig], Raw]]:
    """Key path, class and keys of a config and of every config inside it."""
    yield prefix, kind, raw
    for key, value in raw.items():
        name = field_of(kind, key)
        nested = nested_kind(kind, name, value) if name else None
        if nested is not None and isinstance(value, Mapping):
            yield from _parts(nested, value, f"{prefix}{key}.")


def _kind(raw: Raw) -> type[ModelConfig]:
    return family_of(raw["model_type"], raw).config


def _dimensions(raw: Raw) -> list[tuple[str, tuple[str, ...]]]:
    """Key path of every dimension, and all spellings of its last key."""
    return [
        (f"{prefix}{next((other for other in names if other in keys), name)}", names)
        for prefix, kind, keys in _parts(_kind(raw), raw)
        for name in sorted(dimension_names(kind) | (LAYER_KEYS & set(kind.model_fields)))
        for names in (tuple(spellings(kind, name)),)
    ]


def _numbers(raw: Raw) -> list[tuple[str, int]]:
    """Key path and value of every whole number that a config states and its family reads."""
    return [
        (f"{prefix}{key}", value)
        for prefix, kind, keys in _parts(_kind(raw), raw)
        for key, value in keys.items()
        if isinstance(value, int) and not isinstance(value, bool) and key in known_keys(kind)
    ]


def _drawn(data: st.DataObject, raw: Raw) -> Raw:
    """The config with some numbers changed, a change that contradicts the others left out."""
    changes = st.tuples(st.sampled_from(_numbers(raw)), st.integers(1, 3), st.integers(-1, 40))
    for (key, value), factor, offset in data.draw(st.lists(changes, max_size=5)):
        changed = with_overrides(raw, {key: value * factor if offset < 1 else value + offset})
        if _is_valid(changed):
            raw = changed
    return raw


STEPS = st.builds(
    Step,
    batch_size=st.integers(1, 5),
    sequence_length=st.integers(1, 40),
    past=st.sampled_from([0, 0, 1, 7, 30]),
    source_length=st.sampled_from([None, 1, 9, 33]),
    logits=st.sampled_from(["all", "last"]),
    images=st.integers(0, 2),
)


def _computed(tree: Node, step: Step) -> Compute:
    try:
        return compute(tree, step)
    except UnsupportedError:
        return compute(tree, _without_past(step))


def _without_past(step: Step, batch_size: int | None = None) -> Step:
    return Step(
        batch_size=step.batch_size if batch_size is None else batch_size,
        sequence_length=step.sequence_length,
        source_length=step.source_length,
        logits=step.logits,
        images=step.images,
    )


def _int(number: object) -> int:
    assert isinstance(number, int)
    return number


every_family = pytest.mark.parametrize("model_type", MODEL_TYPES)


@every_family
@settings(QUIET, max_examples=5)
@given(data=st.data())
def test_components_sum_to_the_total_and_a_token_meets_no_more(base: Raw, data: st.DataObject) -> None:
    model = _model(_drawn(data, base))
    counts = count(model.tree)
    assert sum(counts.breakdown.values()) == counts.total
    assert sum(line.parameters for line in module_lines(model)) == counts.total
    assert all(_int(held) >= 0 for held in counts.breakdown.values())
    assert 0 < _int(counts.active_excl_input_embedding) <= _int(counts.active) <= _int(counts.total)
    assert _int(counts.total) <= _int(counts.total_with_untied_head)


@every_family
@settings(QUIET, max_examples=5)
@given(data=st.data(), step=STEPS)
def test_flops_are_those_of_their_components_and_no_convention_exceeds_what_is_executed(
    base: Raw, data: st.DataObject, step: Step
) -> None:
    tree = _model(_drawn(data, base)).tree
    before = count(tree)
    result = _computed(tree, step)
    assert count(tree) == before
    matmul = result.conventions["matmul"]
    assert sum(flops.forward for flops in result.components.values()) == matmul.forward
    assert sum(flops.backward for flops in result.components.values()) == matmul.backward
    for name in ("causal", "masked"):
        kept = result.conventions[name]
        assert 0 <= kept.forward <= matmul.forward
        assert 0 <= kept.backward <= matmul.backward
    assert matmul.backward <= 2 * matmul.forward
    assert result.conventions["6N"].training <= result.conventions["palm"].training


def _kept_apart_from_the_batch(tree: Node) -> bool:
    """Whether something is not done once a sample: distances are once a batch, pairs of samples batch**2."""
    return any(
        row.stream.kind == "distances" or (isinstance(row.leaf, Attention) and row.leaf.keys in ("distances", "pairs"))
        for row in walk(tree)
    )


@every_family
@settings(QUIET, max_examples=3)
@given(data=st.data(), step=STEPS)
def test_flops_are_proportional_to_the_batch(base: Raw, data: st.DataObject, step: Step) -> None:
    tree = _model(_drawn(data, base)).tree
    results = [compute(tree, _without_past(step, batch)).conventions for batch in (1, 2, 3, 4)]
    for convention in CONVENTIONS:
        forward = [_int(result[convention].forward) for result in results]
        training = [_int(result[convention].training) for result in results]
        if _kept_apart_from_the_batch(tree):
            # constant, proportional and quadratic parts: no third difference
            assert forward[3] - 3 * forward[2] + 3 * forward[1] - forward[0] == 0
            assert training[3] - 3 * training[2] + 3 * training[1] - training[0] == 0
        elif convention in ("matmul", "causal", "masked"):
            assert forward == [forward[0] * batch for batch in (1, 2, 3, 4)]
            assert training == [training[0] * batch for batch in (1, 2, 3, 4)]
        else:
            # In an encoder-decoder the rule halves what may be odd.
            assert all(
                abs(flops - forward[0] * batch) < batch for flops, batch in zip(forward, (1, 2, 3, 4), strict=True)
            )


@every_family
@settings(QUIET, max_examples=3)
@given(data=st.data())
def test_each_layer_of_a_uniform_stack_adds_as_much(base: Raw, data: st.DataObject) -> None:
    raw = _drawn(data, base)
    for prefix, kind, keys in _parts(_kind(raw), raw):
        for name in sorted(LAYER_KEYS & dimension_names(kind)):
            key = next((other for other in spellings(kind, name) if other in keys), None)
            if key is None:
                continue
            stacks = [with_overrides(raw, {f"{prefix}{key}": keys[key] + more}) for more in range(4)]
            if all(map(_is_valid, stacks)):
                first, second, third, fourth = (_int(count(_model(stack).tree).total) for stack in stacks)
                assert second - first == third - second == fourth - third >= 0


def _with(config: ModelConfig, prefix: str, values: Mapping[str, Any]) -> ModelConfig:
    head, _, rest = prefix.partition(".")
    if not head:
        return config.replaced(values)
    part: Any = _with(getattr(config, head), rest, values)
    return config.replaced({head: part})


def _config_parts(config: ModelConfig, prefix: str = "") -> Iterator[tuple[str, ModelConfig]]:
    yield prefix, config
    for name in type(config).model_fields:
        part = getattr(config, name)
        if isinstance(part, ModelConfig):
            yield from _config_parts(part, f"{prefix}{name}.")


def _possible(config: ModelConfig, prefix: str, name: str, values: list[int]) -> list[int]:
    found = []
    for value in values:
        try:
            _with(config, prefix, {name: value})
        except PlannerError:
            continue
        found.append(value)
    return found


@every_family
@settings(QUIET, max_examples=3)
@given(data=st.data(), step=STEPS)
def test_a_column_of_any_dimension_equals_each_of_its_elements(base: Raw, data: st.DataObject, step: Step) -> None:
    model = _model(_drawn(data, base))
    dimensions = [
        (prefix, name, value)
        for prefix, part in _config_parts(model.config)
        for name in sorted(dimension_names(type(part)))
        for value in (getattr(part, name),)
        if isinstance(value, int)
    ]
    prefix, name, value = data.draw(st.sampled_from(dimensions))
    factors = data.draw(st.lists(st.integers(1, 5), min_size=2, max_size=3))
    values = _possible(model.config, prefix, name, [value * factor for factor in factors])
    if not values:
        return
    column = model.tree_of(_with(model.config, prefix, {name: np.array(values, dtype=float)}))
    counts, result = count(column), _computed(column, step)
    for index, single in enumerate(values):
        tree = model.tree_of(_with(model.config, prefix, {name: single}))
        alone, computed = count(tree), _computed(tree, step)

        def element(number: Any, at: int = index) -> float:
            return float(np.broadcast_to(number, len(values))[at])

        assert element(counts.total) == alone.total
        assert element(counts.active) == alone.active
        assert element(counts.active_excl_input_embedding) == alone.active_excl_input_embedding
        assert {key: element(held) for key, held in counts.breakdown.items()} == alone.breakdown
        for convention in CONVENTIONS:
            assert element(result.conventions[convention].forward) == computed.conventions[convention].forward
            assert element(result.conventions[convention].training) == computed.conventions[convention].training


@every_family
@settings(QUIET, max_examples=2)
@given(data=st.data())
def test_the_symbolic_formula_of_a_block_equals_its_number(base: Raw, data: st.DataObject) -> None:
    model = _model(_drawn(data, base))
    repeated = sum(line.parameters for line in module_lines(model) if "*" in line.path)
    assert sum(block.copies * block.parameters for block in block_formulas(model)) == repeated


BROKEN: list[Any] = [
    -1,
    -(2**70),
    0,
    64.0,
    1.5,
    float("nan"),
    float("inf"),
    "64",
    "",
    True,
    False,
    [64],
    [],
    {"a": 1},
    2**40 + 1,
    10**400,
    10**5000,
]
"""Nothing that a width could be."""


UNUSUAL: dict[str, Any] = {
    # as many as there are positions
    "max_relative_positions": -1,
    # no buckets
    "position_buckets": -1,
    # a number for each kind of layer
    "compress_rates": {"a": 1},
}
"""What some keys may hold beside a width."""


@every_family
@settings(QUIET, max_examples=12)
@given(data=st.data())
def test_a_broken_dimension_is_refused_by_its_name(base: Raw, data: st.DataObject) -> None:
    key, names = data.draw(st.sampled_from(_dimensions(base)))
    value = data.draw(st.sampled_from(BROKEN))
    broken = with_overrides(base, {key: value})
    if (_counts_nothing(value) or UNUSUAL.get(key) == value) and _is_valid(broken):
        return
    with pytest.raises(PlannerError) as refused:
        _model(broken)
    assert refused.value.key in {key, *(f"{key.rpartition('.')[0]}.{name}".lstrip(".") for name in names)}


def _counts_nothing(value: object) -> bool:
    """Whether zero may be meant: some keys count what a model may lack."""
    return value == 0 and isinstance(value, int) and not isinstance(value, bool)


@every_family
def test_a_config_without_its_type_is_refused(base: Raw) -> None:
    without: list[dict[str, Any]] = [{}, {"model_type": None}, {"model_type": 7}, {"model_type": []}]
    for missing in without:
        with pytest.raises(PlannerError) as refused:
            _model({key: value for key, value in base.items() if key != "model_type"} | missing)
        assert refused.value.key == "model_type"


@every_family
def test_heads_that_do_not_divide_are_refused_by_name_or_have_a_width_of_their_own(base: Raw) -> None:
    keys = [key for key, names in _dimensions(base) if any("head" in name and "dim" not in name for name in names)]
    for key, heads in product(keys, (5, 7)):
        changed = with_overrides(base, {key: heads})
        refusal = _refusal(partial(_model, changed))
        if refusal is None:
            assert _int(count(_model(changed).tree).total) > 0
        else:
            assert refusal.key is not None
            assert "head" in refusal.key or "group" in refusal.key, refusal


WORDS = ["full_attention", "sliding_attention", "sparse", "dense", "gelu", "gated-gelu", "M*-E", "default", "", "x"]

JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.sampled_from([-7, -1, 0, 1, 2, 3, 4, 8, 48, 96, 100, 2**40, 2**63, 10**30]),
        st.floats(),
        st.sampled_from(WORDS),
        st.text(max_size=4),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=5), st.dictionaries(st.sampled_from(["a", "hidden_size"]), inner, max_size=2)
    ),
    max_leaves=6,
)


@every_family
@settings(QUIET, max_examples=15)
@given(data=st.data())
def test_any_value_of_any_key_is_counted_or_refused(base: Raw, data: st.DataObject) -> None:
    keys = [
        f"{prefix}{key}"
        for prefix, kind, _ in _parts(_kind(base), base)
        for key in sorted(known_keys(kind))
        if key != "model_type"
    ]
    raw = base
    for key, value in data.draw(st.lists(st.tuples(st.sampled_from(keys), JSON), min_size=1, max_size=2)):
        raw = with_overrides(raw, {key: value})
    if _refusal(lambda: _model(raw)):
        return
    model = _model(raw)
    counts = count(model.tree)
    assert sum(counts.breakdown.values()) == counts.total
    assert compute(model.tree, Step(sequence_length=3, images=1)).conventions["matmul"].forward >= 0


def _parsed(text: str) -> Raw | None:
    refusal = _refusal(lambda: parse_config(text, "config.json"))
    assert refusal is None or refusal.file == "config.json"
    return None if refusal else parse_config(text, "config.json")


@settings(QUIET, max_examples=200)
@given(st.one_of(st.text(), st.text(alphabet='{}[]":,0123456789eE+-.ntrufalsNIy \n\\')))
def test_any_text_is_a_mapping_or_refused(text: str) -> None:
    found = _parsed(text)
    assert found is None or isinstance(found, Mapping)


@settings(QUIET, max_examples=200)
@given(data=st.data())
def test_a_cut_or_changed_config_is_a_mapping_or_refused(data: st.DataObject) -> None:
    text = json.dumps({"model_type": "llama", **LLAMA_SHAPE, "rope_scaling": {"factor": 8.0, "type": ["a", None]}})
    start = data.draw(st.integers(0, len(text)))
    stop = data.draw(st.integers(start, len(text)))
    changed = text[:start] + data.draw(st.text(max_size=3)) + text[stop:]
    found = _parsed(changed)
    assert found is None or isinstance(found, Mapping)


@settings(QUIET, max_examples=200)
@given(st.dictionaries(st.text(max_size=5), JSON, max_size=5))
def test_what_json_writes_is_read_back_unless_it_holds_no_number(keys: dict[str, Any]) -> None:
    text = json.dumps(keys)
    if "NaN" in text:
        return
    assert _parsed(text) == keys


@settings(QUIET, max_examples=100)
@given(content=st.binary(max_size=60))
def test_any_bytes_are_a_mapping_or_refused(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "any_bytes.json"
    path.write_bytes(content)
    refusal = _refusal(lambda: read_config_file(path))
    if refusal is None:
        assert isinstance(read_config_file(path), Mapping)
    else:
        assert refusal.file == str(path)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"a":' * 100_000,
        '{"a":' * 40 + "1" + "}" * 40,
        '{"hidden_size": ' + "9" * 10_000 + "}",
        '{"hidden_size": NaN}',
        '{"hidden_size": 1, "hidden_size": 1}',
        '{"a": {"b": 1, "b": 2}}',
        "null",
        "[]",
        "1",
        '"model_type"',
        "",
        "\ufeff{}",
        "{} {}",
    ],
    ids=str,
)
def test_texts_that_break_parsers_are_refused(text: str) -> None:
    assert _parsed(text) is None
