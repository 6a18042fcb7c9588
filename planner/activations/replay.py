"""What is alive while a block runs backward: what it keeps, and the gradients that are on their way.

The forward pass is played on a tape with a clock. Backward runs the clock back: a kept tensor is alive until the first
operator that kept it has run, and the gradient of a tensor from its last reader back to the operator that made it. The
fullest moment is the largest sum over the clock, so it follows from the operators alone, as the kept tensors do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from planner.activations.saved import SavedTensor
from planner.activations.tape import ALWAYS, Dtype, Storage, Tape, Value, Weight
from planner.nodes import Place
from planner.numeric import Num, maximum


@dataclass(eq=False, slots=True)
class _Life:
    """One tensor by the clock.

    Attributes
    ----------
    storage : Storage
        Its memory.
    made : int
        When its operator ran.
    read : int
        When its last reader ran.
    kept : int or None
        When the first operator kept it.
    gradient : _Life
        Tensor whose gradient is its own: a sum hands the gradient that it gets to both of its operands.
    needs_grad : bool
        Whether it has one.
    """

    storage: Storage
    made: int
    needs_grad: bool
    read: int = 0
    kept: int | None = None
    shares: _Life | None = None

    @property
    def root(self) -> _Life:
        """Tensor that stands for all that share its gradient."""
        life = self
        while life.shares is not None:
            life = life.shares
        return life


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockAtWork:
    """Memory of a block while it runs backward, its input and the output of its forward apart. [B]

    Attributes
    ----------
    path : str
        Of the block.
    indices : range, tuple of int or None
        Positions of its copies.
    peak_bytes : Num
        Kept tensors and gradients at the fullest moment.
    input_bytes : Num
        Of the hidden states that enter it, which are as large as those that leave it.
    keeps_input : bool
        Whether it keeps them for its backward.
    """

    path: str
    indices: tuple[int, ...] | range | None
    peak_bytes: Num
    input_bytes: Num
    keeps_input: bool


@dataclass(slots=True)
class ClockedTape(Tape):
    """A tape that notes when each tensor is made, read and kept.

    Attributes
    ----------
    beside : mapping of str to sequence of SavedTensor
        What adapters keep beside the matrix of a path.
    turns : mapping of str to Num
        By path, modules of one kind that run one after the other, each on its share, as experts do in a loop: gradients
        within them are there for one at a time.
    """

    beside: Mapping[str, Sequence[SavedTensor]] = field(default_factory=dict)
    turns: Mapping[str, Num] = field(default_factory=dict)
    _clock: int = 0
    _ahead: int = 0
    _lives: dict[int, _Life] = field(default_factory=dict)
    _extra: list[tuple[int, Place, SavedTensor]] = field(default_factory=list)

    def new(self, elements: Num, dtype: Dtype, *, needs_grad: bool = True) -> Value:
        """A tensor in memory of its own."""
        self._clock += 1
        value = Tape.new(self, elements, dtype, needs_grad=needs_grad)
        self._lives[id(value.storage)] = _Life(value.storage, self._clock, needs_grad, self._clock)
        return value

    def _read(self, *values: Value) -> None:
        """Note that the operator that makes the next tensor reads some."""
        for value in values:
            life = self._lives[id(value.storage)]
            life.read = max(life.read, self._clock + 1)

    def keep(self, value: Value, name: str, when: Any = ALWAYS) -> None:
        """Note that an operator keeps a tensor for its backward."""
        Tape.keep(self, value, name, when)
        self._read(value)
        life = self._lives[id(value.storage)]
        if life.kept is None:
            life.kept = max(self._clock + self._ahead, life.made)

    @contextmanager
    def _before(self, *values: Value) -> Iterator[None]:
        """An operator that reads and keeps its operands before it makes its result."""
        self._read(*values)
        self._ahead = 1
        try:
            yield
        finally:
            self._ahead = 0

    def like(self, value: Value, *, dtype: Dtype | None = None, needs_grad: bool | None = None) -> Value:
        """A new tensor of the same shape, made of the other one."""
        self._read(value)
        return Tape.like(self, value, dtype=dtype, needs_grad=needs_grad)

    def linear(self, value: Value, weight: Weight, out_elements: Num) -> Value:
        """Product with a weight, and what an adapter keeps beside it."""
        for saved in self.beside.get(self.place.path, ()):
            self._extra.append((self._clock + 1, self.place, saved))
        with self._before(value):
            return Tape.linear(self, value, weight, out_elements)

    def gain(self, value: Value, weight: Weight) -> Value:
        """Product of every vector with a parameter."""
        with self._before(value):
            return Tape.gain(self, value, weight)

    def by_input(self, value: Value, name: str, *, dtype: Dtype | None = None) -> Value:
        """Function whose derivative needs its input."""
        with self._before(value):
            return Tape.by_input(self, value, name, dtype=dtype)

    def multiply(
        self, first: Value, second: Value, names: tuple[str, str] = ("factor", "factor"), elements: Num | None = None
    ) -> Value:
        """Elementwise product."""
        with self._before(first, second):
            return Tape.multiply(self, first, second, names, elements)

    def add(self, first: Value, second: Value) -> Value:
        """Sum, whose operands get the gradient that it has."""
        self._read(first, second)
        result = Tape.add(self, first, second)
        root = self._lives[id(first.storage)].root
        for value in (second, result):
            other = self._lives[id(value.storage)].root
            if other is not root and value.needs_grad and root.needs_grad:
                other.shares = root
        return result

    def matmul(self, first: Value, second: Value, elements: Num, names: tuple[str, str], samples: Num) -> Value:
        """Product of a matrix a head."""
        with self._before(first, second):
            return Tape.matmul(self, first, second, elements, names, samples)

    def blocks(self) -> tuple[BlockAtWork, ...]:
        """Every kind of block that was played, at its fullest moment."""
        groups: dict[tuple[str, Any], list[_Life]] = {}
        for life in self._lives.values():
            place = life.storage.place
            if place.indices:
                groups.setdefault((_block_path(place.path), place.indices[0]), []).append(life)
        return tuple(self._at_work(path, indices, lives) for (path, indices), lives in groups.items())

    def _at_work(self, path: str, indices: Any, lives: list[_Life]) -> BlockAtWork:
        entering, *inside = lives
        extra = [
            (clock, saved)
            for clock, place, saved in self._extra
            if place.indices and (_block_path(place.path), place.indices[0]) == (path, indices)
        ]
        gradients: dict[int, tuple[Num, int, int]] = {}
        for life in lives:
            if life.needs_grad:
                size, made, read = gradients.get(id(life.root), (0, life.made, life.read))
                gradients[id(life.root)] = (
                    maximum(size, life.storage.size_bytes / self.turns.get(life.storage.place.path, 1)),
                    min(made, life.made),
                    max(read, life.read),
                )
        peak: Num = 0
        for clock in range(entering.made, inside[-1].made + 1):
            alive: Num = 0
            for life in inside:
                if life.kept is not None and life.kept <= clock:
                    alive = alive + life.storage.size_bytes * _share(life.storage.kept)
            for since, saved in extra:
                if since <= clock:
                    alive = alive + saved.size_bytes
            for size, made, read in gradients.values():
                if made <= clock <= read:
                    alive = alive + size
            peak = maximum(peak, alive)
        return BlockAtWork(
            path=path,
            indices=indices,
            peak_bytes=peak,
            input_bytes=entering.storage.size_bytes,
            keeps_input=entering.kept is not None,
        )


def _share(condition: Any) -> Num:
    """1 where a tensor is kept, and 0 where a column says that it is not."""
    return 1 if condition is True else condition * 1


def _block_path(path: str) -> str:
    return path.split(".*", 1)[0] + ".*"
