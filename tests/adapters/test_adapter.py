"""What an adapter accepts, and what it says where it does not."""

import pytest

from planner.adapters import METHODS, Adapter
from planner.errors import ScenarioError, UnknownNameError


def test_a_mistyped_method_option_or_bias_names_the_near_miss() -> None:
    with pytest.raises(UnknownNameError, match="did you mean .*'lora'"):
        Adapter(method="lorra")
    with pytest.raises(UnknownNameError, match="did you mean 'block_size'"):
        Adapter(method="c3a", options={"blocksize": 4})
    with pytest.raises(UnknownNameError, match="it takes none"):
        Adapter(method="lora", options={"alpha": 4})
    with pytest.raises(UnknownNameError, match="peft's 'lora_only' is 'only'"):
        Adapter(method="lora", bias="lora_only")  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="nf4"):
        Adapter(method="lora", dtype="nf4")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "lora", "rank": 0}, "rank: expected a rank above 0"),
        ({"method": "lora", "rank_pattern": {"q_proj": -1}}, "rank_pattern.q_proj: expected a rank above 0"),
        ({"method": "prefix", "rank": 4}, "'prefix' has no rank.*num_virtual_tokens"),
        ({"method": "lora", "dropout": 1.0}, "dropout: expected a probability below 1"),
        ({"method": "frozen"}, "names no modules"),
        ({"method": "lora", "frozen_modules": ("embed_tokens",)}, "freezes the base as a whole"),
        ({"method": "lora", "target_modules": "("}, "target_modules: '.' is no regular expression"),
        ({"method": "lora", "target_modules": "all-linear", "layers_to_transform": (0,)}, "not beside a pattern"),
    ],
)
def test_values_that_contradict_the_method_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ScenarioError, match=message):
        Adapter(**values)  # type: ignore[arg-type]


def test_defaults_are_the_methods_own() -> None:
    assert Adapter(method="vera").rank_or_default == 256
    assert Adapter(method="vblora").count("num_vectors") == 256
    assert Adapter(method="vblora", options={"num_vectors": 90}).count("num_vectors") == 90
    assert METHODS["ia3"].rank is None
