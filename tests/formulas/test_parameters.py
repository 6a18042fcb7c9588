from planner.formulas.parameters import active_expert_parameters, numel


def test_a_tensor_has_the_product_of_its_dimensions() -> None:
    assert numel((30522, 768)) == 23_440_896


def test_a_scalar_has_one_element() -> None:
    assert numel(()) == 1


def test_two_of_eight_experts_are_a_quarter() -> None:
    # 8 experts * 3 matrices * 4096 * 14336 = 1,409,286,144; a quarter
    assert active_expert_parameters(1_409_286_144, 8, 2) == 352_321_536
