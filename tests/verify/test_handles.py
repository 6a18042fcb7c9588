"""Products that a trace can hold are counted from their shapes, and none is ever counted as zero by mistake."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from planner.errors import UnsupportedError
from planner.verify.handles import attention_multiply_adds, einsum_multiply_adds, grouped_multiply_adds
from planner.verify.operators import ZERO, is_zero, refuse_unknown
from planner.verify.trace import traced_flops


class Runs(nn.Module):
    """Module that calls a function, or a module as its child."""

    def __init__(self, call: Callable[..., Tensor]) -> None:
        super().__init__()
        self.call = call

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.call(*inputs)


def flops(call: Callable[..., Tensor], *shapes: tuple[int, ...]) -> int:
    return sum(traced_flops(Runs(call), tuple(torch.ones(shape) for shape in shapes)).values())


@pytest.mark.parametrize(
    ("call", "shapes", "multiply_adds"),
    [
        (torch.matmul, [(3, 4), (4, 5)], 3 * 4 * 5),
        (torch.matmul, [(4,), (4, 5)], 4 * 5),
        (torch.matmul, [(3, 4), (4,)], 3 * 4),
        (torch.matmul, [(4,), (4,)], 4),
        # broadcast: fvcore's own handle counts 24 here
        (torch.matmul, [(1, 2, 3), (5, 3, 4)], 5 * 2 * 3 * 4),
        (torch.matmul, [(2, 1, 2, 3), (5, 3, 4)], 2 * 5 * 2 * 3 * 4),
        (torch.mm, [(3, 4), (4, 5)], 3 * 4 * 5),
        (torch.bmm, [(2, 3, 4), (2, 4, 5)], 2 * 3 * 4 * 5),
        (torch.addmm, [(5,), (3, 4), (4, 5)], 3 * 4 * 5),
        (torch.baddbmm, [(1, 3, 5), (2, 3, 4), (2, 4, 5)], 2 * 3 * 4 * 5),
        (nn.functional.linear, [(2, 3, 4), (5, 4)], 2 * 3 * 4 * 5),
        # 2 x 8 output channels over 3 x 3 positions, 4 / 2 input channels and a 2 x 2 kernel
        (nn.Conv2d(4, 8, 2, stride=2, groups=2), [(2, 4, 6, 6)], 2 * 8 * 9 * 2 * 4),
        (nn.Conv1d(4, 8, 3), [(2, 4, 6)], 2 * 8 * 4 * 4 * 3),
        # transposed: every input position meets the whole kernel
        (nn.ConvTranspose2d(4, 8, 2), [(2, 4, 6, 6)], 2 * 4 * 36 * 8 * 4),
    ],
)
def test_products_are_counted_from_shapes(
    call: Callable[..., Tensor], shapes: list[tuple[int, ...]], multiply_adds: int
) -> None:
    assert flops(call, *shapes) == 2 * multiply_adds


@pytest.mark.parametrize("kernel", ["eager", "fused"])
def test_attention_with_grouped_heads_and_other_value_widths(kernel: str) -> None:
    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if kernel == "fused":
            return nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
        key, value = (tensor.repeat_interleave(3, dim=1) for tensor in (key, value))
        return torch.softmax(query @ key.transpose(-1, -2), dim=-1) @ value

    # 2 samples, 6 heads, 5 queries, 7 keys, widths 4 and 8
    assert flops(attend, (2, 6, 5, 4), (2, 2, 7, 4), (2, 2, 7, 8)) == 2 * 2 * 6 * 5 * 7 * (4 + 8)
    assert attention_multiply_adds((2, 6, 5, 4), (2, 2, 7, 4), (2, 2, 7, 8), (2, 6, 5, 8)) == 2 * 6 * 5 * 7 * 12


def test_grouped_product_forward_and_the_gradient_of_its_weights() -> None:
    # 10 rows of 4, 3 matrices of 4 x 5, each row meets one of them
    assert grouped_multiply_adds((10, 4), (3, 4, 5), (10, 5)) == 10 * 4 * 5
    # (4 x 10) times (10 x 5), the 10 split among 3 groups
    assert grouped_multiply_adds((4, 10), (10, 5), (3, 4, 5)) == 4 * 10 * 5


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("ij,jk->ik", [(3, 4), (4, 5)]),
        ("ij,jk", [(3, 4), (4, 5)]),
        ("bhid,bhjd->bhij", [(2, 6, 5, 4), (2, 6, 7, 4)]),
        ("...id,...jd->...ij", [(2, 6, 5, 4), (2, 6, 7, 4)]),
        ("i,i->", [(4,), (4,)]),
        # element by element: no product of matrices
        ("i,j->ij", [(4,), (5,)]),
        ("ij,ij->ij", [(4, 5), (4, 5)]),
        ("ij->j", [(4, 5)]),
    ],
)
def test_einsum_counts_what_flop_counter_mode_counts(equation: str, shapes: list[tuple[int, ...]]) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        torch.einsum(equation, *(torch.ones(shape) for shape in shapes))
    assert flops(lambda *inputs: torch.einsum(equation, *inputs), *shapes) == counter.get_total_flops()


def test_large_einsum_keeps_every_digit() -> None:
    # fvcore's own handle reads numpy's four printed digits of this number
    shapes = [(3001, 2999), (2999, 2503)]
    assert einsum_multiply_adds("ij,jk->ik", shapes, (3001, 2503)) == 3001 * 2999 * 2503


def test_einsum_of_three_operands_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="more than two operands"):
        flops(lambda *inputs: torch.einsum("ij,jk,kl->il", *inputs), (2, 3), (3, 4), (4, 5))


def test_own_products_of_each_module_and_not_its_childrens() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.Linear(4, 6, bias=False)
            self.down = nn.Sequential(nn.Linear(6, 4), nn.ReLU())

        def forward(self, inputs: Tensor) -> Tensor:
            hidden: Tensor = self.down(self.up(inputs))
            return hidden @ hidden.transpose(-1, -2)

    # 3 positions; the block's own product is 3 x 4 times 4 x 3
    assert traced_flops(Block(), (torch.ones(3, 4),)) == {
        "": 2 * 3 * 4 * 3,
        "up": 2 * 3 * 4 * 6,
        "down": 0,
        "down.0": 2 * 3 * 6 * 4,
        "down.1": 0,
    }


def test_torchs_own_encoder_layer_has_no_product_that_escapes() -> None:
    # Its fast path, one kernel for everything, would be refused; here 6 positions meet (4 x 12), (4 x 4), (4 x 8) and
    # (8 x 4), and 2 samples x 2 heads x 9 pairs the width 2 twice.
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True).eval()
    assert flops(layer, (2, 3, 4)) == 2 * (6 * 4 * (12 + 4 + 8 + 8) + 2 * 2 * 9 * (2 + 2))


@torch.library.custom_op("planner_tests::softmax", mutates_args=())
def hidden_product(first: Tensor, second: Tensor) -> Tensor:
    """A kernel of one's own, whose name says nothing."""
    return first @ second


class HiddenProduct(torch.autograd.Function):
    """A function of one's own."""

    @staticmethod
    def forward(ctx: object, first: Tensor, second: Tensor) -> Tensor:
        del ctx
        return first @ second


class First(nn.Module):
    """First output of a recurrent layer."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = self.layer(inputs)[0]
        return output


MATRICES = [(4, 4), (4, 4)]


@pytest.mark.parametrize(
    ("call", "shapes", "named"),
    [
        (nn.Bilinear(4, 5, 6), [(3, 4), (3, 5)], "aten::bilinear"),
        (First(nn.LSTM(4, 5, batch_first=True)), [(2, 3, 4)], "aten::lstm"),
        (First(nn.GRU(4, 5, batch_first=True)), [(2, 3, 4)], "aten::gru"),
        (First(nn.RNN(4, 5, batch_first=True)), [(2, 3, 4)], "aten::rnn_tanh"),
        (torch.cdist, MATRICES, "aten::cdist"),
        (torch.addbmm, [(3, 5), (2, 3, 4), (2, 4, 5)], "aten::addbmm"),
        (lambda *inputs: torch.linalg.multi_dot(inputs), [(2, 3), (3, 4), (4, 5)], "aten::linalg_multi_dot"),
        (torch.mv, [(3, 4), (4,)], "aten::mv"),
        (torch.dot, [(4,), (4,)], "aten::dot"),
        (torch.inner, MATRICES, "aten::inner"),
        (torch.kron, MATRICES, "aten::kron"),
        (torch.outer, [(3,), (4,)], "aten::outer"),
        (lambda inputs: torch.linalg.inv(inputs + torch.eye(3)), [(3, 3)], "aten::linalg_inv"),
        (torch.corrcoef, [(3, 4)], "aten::corrcoef"),
        (hidden_product, MATRICES, "planner_tests::softmax"),
        (HiddenProduct.apply, MATRICES, "prim::PythonOp"),
    ],
)
def test_an_operator_that_could_multiply_is_refused_by_name(
    call: Callable[..., Tensor], shapes: list[tuple[int, ...]], named: str
) -> None:
    with pytest.raises(UnsupportedError, match=named):
        flops(call, *shapes)


def test_products_inside_a_compiled_branch_are_refused() -> None:
    def branch(inputs: Tensor, repeats: int) -> Tensor:
        for _ in range(repeats):
            inputs = inputs @ inputs
        return inputs

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        compiled = torch.jit.script(branch)
    with pytest.raises(UnsupportedError, match=r"prim::(Loop|CallFunction)"):
        flops(lambda inputs: compiled(inputs, int(inputs.shape[0])), (4, 4))


def test_the_list_of_harmless_operators_holds_no_product() -> None:
    words = ("addmm", "bmm", "matmul", "attention", "conv", "einsum", "linear", "dot", "lstm", "gru", "rnn", "outer")
    suspects = [name for name in ZERO if any(word in name for word in words)]
    # interpolation is called linear, and weighs neighbours
    assert [name for name in suspects if "upsample" not in name] == []
    assert is_zero("aten::add_")
    assert not is_zero("prim::PythonOp.HiddenProduct")
    refuse_unknown(["aten::softmax"])
    with pytest.raises(UnsupportedError, match=r"aten::new_kernel in 'layers\.0'"):
        refuse_unknown(["aten::softmax", "aten::new_kernel"], {"aten::new_kernel": "layers.0"})


@pytest.mark.parametrize("padding", [0, 1, "valid"])
def test_a_convolution_on_meta_is_traced_as_on_a_cpu(padding: int | str) -> None:
    def count(device: str) -> dict[str, int]:
        layer = nn.Conv2d(3, 8, 4, stride=2, padding=padding, device=device)
        return traced_flops(layer, (torch.ones(2, 3, 10, 10, device=device),))

    assert count("meta") == count("cpu")
    assert count("meta")[""] > 0
