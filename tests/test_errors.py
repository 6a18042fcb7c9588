from planner.errors import ConfigError, PlannerError, near_miss


def test_an_error_names_file_line_key_and_way_out() -> None:
    error = ConfigError("expected a number", file="a.yaml", line=3, key="gpu", hint="did you mean 4?")
    assert str(error) == "a.yaml:3: gpu: expected a number (did you mean 4?)"


def test_parts_that_are_unknown_are_left_out() -> None:
    assert str(PlannerError("wrong")) == "wrong"
    assert str(PlannerError("wrong", line=2)) == "line 2: wrong"


def test_a_near_miss_is_found_whatever_its_case() -> None:
    assert near_miss("h100 80", ["H100 80GB", "T4"]) == "did you mean 'H100 80GB'?"


def test_nothing_close_is_no_hint() -> None:
    assert near_miss("xyz", ["hidden_size"]) is None
