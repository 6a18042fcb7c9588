"""What the real model keeps for backward and holds at a time, against what the planner predicts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from planner.activations import SavedTensor
from planner.activations.context import ExpertKernel
from planner.activations.huggingface import TrainingDtype, huggingface_saved
from planner.activations.tape import Arithmetic, Tape
from planner.counts import held_tensors
from planner.counts import parameters as row_parameters
from planner.errors import UnsupportedError
from planner.models import BUILDER, Model
from planner.nodes import Linear, walk
from planner.real.build import DTYPES, quiet, real_class
from planner.verify.backward import WeightedTape, backward_moments, is_idle, outside_bytes, sum_bytes
from planner.verify.call import arguments
from planner.verify.choices import ALL, AUTO, DEVICES, Implementation, check_choice, implementations
from planner.verify.execute import Progress, runtime_errors
from planner.verify.fake import fake_tensors
from planner.verify.free_memory import needed_bytes, refuse_what_does_not_fit
from planner.verify.memory_result import MemoryVerification, Part, Peak
from planner.verify.peak import CudaCounter, StorageCounter, step_phases
from planner.verify.real import build
from planner.verify.result import Figure, versions
from planner.verify.saved import KeptTensor, kept_tensors, without_dropout
from planner.workload import Step

TRAINING_DTYPES = ("fp32", "bf16", "autocast")

OUTSIDE, LOSS = "outside of the blocks", "loss"
"""Parts that no block has."""

AS_ON_CUDA = {"foreach": True}
"""AdamW on all parameters at once, which is torch's own choice on CUDA, and not on a CPU."""

STATES, COUNTER_BYTES = 2, 4
"""AdamW keeps two numbers a parameter, and a counter of its steps a tensor, of those that have a gradient."""


def verify_memory(
    model: Model,
    *,
    step: Step,
    device: str = "meta",
    attention: str = ALL,
    experts: str = AUTO,
    dtype: str = "bf16",
    checkpointing: bool = False,
    peak: bool = True,
    progress: Progress | None = None,
) -> list[MemoryVerification]:
    """Train the real model for a step, without dropout, and compare what it keeps with the fold over its tree.

    Parameters
    ----------
    model : Model
        What to verify; it must have a builder.
    step : Step
        Samples and tokens.
    device : str
        ``meta`` runs on fake tensors with the kernels of a CPU, since plain ones take other kernels; ``cpu``, ``cuda``.
    attention, experts : str
        As `planner.verify.verify` has them.
    dtype : str
        ``fp32``, ``bf16`` or ``autocast``.
    checkpointing : bool
        Compute blocks again in backward.
    peak : bool
        Run a whole step with AdamW as well, and count what is held at a time.
    progress : callable, optional
        Told in a few words what is being done.

    Raises
    ------
    UnknownNameError
        A word that is no choice.
    UnsupportedError
        It cannot run.
    """
    check_choice("device", device, DEVICES)
    check_choice("dtype", dtype, TRAINING_DTYPES)
    if device == "cuda" and not torch.cuda.is_available():
        raise UnsupportedError("this torch sees no CUDA device", key="device", hint="choose meta or cpu")
    if model.method != BUILDER:
        raise UnsupportedError(f"{model.class_name} has no builder, so nothing predicts what it keeps", key="memory")
    if step.past:
        raise UnsupportedError("a cached past has no backward", key="past", hint="leave it at 0")
    chosen, _ = implementations(
        model, real_class(model.class_name), device=device, attention=attention, experts=experts
    )
    tell = progress or (lambda _: None)
    runs = (_Run(model, step, device, implementation, dtype, checkpointing, tell) for implementation in chosen)
    return [run.verification(peak=peak) for run in runs]


class _Run:
    """One implementation."""

    def __init__(
        self,
        model: Model,
        step: Step,
        device: str,
        implementation: Implementation,
        dtype: Any,
        checkpointing: bool,
        tell: Progress,
    ) -> None:
        self._model, self._step, self._device, self._how = model, step, device, implementation
        self._dtype: TrainingDtype = dtype
        self._checkpointing, self._tell = checkpointing, tell
        self._weights = torch.bfloat16 if dtype == "bf16" else torch.float32
        self._tree = model.tree

    def verification(self, *, peak: bool) -> MemoryVerification:
        if self._device != "meta":
            needed = needed_bytes(
                self._tree, self._step, DTYPES["cpu"].itemsize, experts=self._how.experts, backward=True
            )
            refuse_what_does_not_fit(needed, self._device)
        predicted = self._predicted(checkpointing=self._checkpointing)
        self._tell(f"running {self._model.class_name} with attention {self._how.attention} forward")
        with self._built() as (real, loss_of, inputs):
            kept = kept_tensors(real, loss_of, inputs)
        return MemoryVerification(
            model=self._model.name,
            class_name=self._model.class_name,
            device=self._device,
            dtype=self._dtype,
            attention=self._how.attention,
            experts=self._how.experts,
            tensors="fake" if self._device == "meta" else "real",
            step=self._step,
            checkpointing=self._checkpointing,
            versions={name: found for name, found in versions().items() if name != "fvcore"},
            parts=compared(kept, predicted, [path for path, _ in _blocks(self._tree)]),
            peak=self._peak(predicted) if peak else None,
        )

    def _predicted(
        self, *, checkpointing: bool, make_tape: Callable[[Arithmetic], Tape] = Tape
    ) -> tuple[SavedTensor, ...]:
        return huggingface_saved(
            self._tree,
            self._step,
            dtype=self._dtype,
            attention="sdpa" if self._how.attention == "sdpa" else "eager",
            experts=_experts(self._how.experts),
            device="cuda" if self._device == "cuda" else "cpu",
            checkpointing=checkpointing,
            make_tape=make_tape,
        )

    @contextmanager
    def _built(self) -> Iterator[tuple[nn.Module, Callable[[], Tensor], list[Tensor]]]:
        """The real model in training, what runs it to its loss, and its inputs."""
        fake = self._device == "meta"
        device = "cpu" if fake else self._device
        with (
            quiet(),
            runtime_errors(self._device, self._model.class_name),
            fake_tensors() if fake else nullcontext(),
        ):
            real: Any = build(self._model, self._how, dtype=self._weights, device=device, fake=fake)
            real.train()
            without_dropout(real)
            if self._checkpointing:
                # The second is what transformers called the first before 5.24.
                renamed = getattr(real, "activation_checkpointing_enable", None)
                (renamed or real.gradient_checkpointing_enable)()
            keywords = arguments(
                real, self._model.config, self._step, device=device, dtype=self._weights, symbolic=fake
            )
            if _has_logits(self._tree):
                if keywords.pop("decoder_input_ids", None) is not None:
                    _start_token(real.config)
                samples, tokens = int(self._step.batch_size), int(self._step.sequence_length)
                keywords["labels"] = torch.zeros(samples, tokens, dtype=torch.long, device=device)

            def loss_of() -> Tensor:
                autocast = self._dtype == "autocast"
                with torch.autocast(device, dtype=torch.bfloat16, enabled=autocast):
                    output = real(**keywords)
                return output.loss if "labels" in keywords else _sum(output)

            yield real, loss_of, [value for value in keywords.values() if isinstance(value, Tensor)]

    def _peak(self, predicted: tuple[SavedTensor, ...]) -> Peak:
        self._tell(f"running {self._model.class_name} with attention {self._how.attention} for two steps")
        with self._built() as (real, loss_of, inputs):
            parameters = sum(p.numel() * p.element_size() for p in real.parameters())
            buffers = sum(b.numel() * b.element_size() for b in real.buffers())
            beside = buffers + sum(tensor.numel() * tensor.element_size() for tensor in inputs)
            counters = COUNTER_BYTES * sum(1 for _ in real.parameters())
            if self._device == "cuda":
                phases = step_phases(real, loss_of, CudaCounter(), AS_ON_CUDA)
                free, whole = torch.cuda.mem_get_info()
                cuda = {"reserved_bytes": torch.cuda.max_memory_reserved(), "device_bytes": whole - free}
            else:
                held = chain(real.parameters(), real.buffers(), inputs)
                phases, cuda = step_phases(real, loss_of, StorageCounter(held), AS_ON_CUDA), {}
        idle = [row for row in walk(self._tree) if is_idle(row, self._step)]
        trained = parameters - sum(int(row_parameters(row)) for row in idle) * self._weights.itemsize
        counters -= COUNTER_BYTES * sum(int(row.copies) * len(held_tensors(row)) for row in idle)
        resident = parameters + STATES * trained + counters + beside
        # Gradients, and one temporary of torch's AdamW that is as large as all that it trains.
        sums = {**self._activations(predicted), "optimizer step": 2 * trained}
        sums = {name: resident + size for name, size in sums.items()}
        return Peak(phases=phases, predicted=sums, **cuda)

    def _activations(self, predicted: tuple[SavedTensor, ...]) -> dict[str, int]:
        """What forward and backward hold beside weights and states, at the moments that may be the fullest. [B]"""
        tapes: list[WeightedTape] = []

        def make_tape(arithmetic: Arithmetic) -> WeightedTape:
            tapes.append(WeightedTape(arithmetic))
            return tapes[-1]

        whole = self._predicted(checkpointing=False, make_tape=make_tape)
        # Arguments that all blocks share are none of what autograd keeps where blocks are computed again, and yet stay.
        kept = sum_bytes(predicted) + (outside_bytes(whole) - outside_bytes(predicted))
        flowing = 2 * sum(int(t.size_bytes) for t in predicted if t.path == LOSS and t.name == "log-probabilities")
        return {
            "end of forward": kept,
            "backward of the loss": kept + flowing,
            **backward_moments(
                self._tree,
                self._step,
                whole,
                [block for tape in tapes for block in tape.blocks()],
                element_bytes=self._weights.itemsize,
                checkpointing=self._checkpointing,
                watched=self._device != "cuda",
            ),
        }


def _start_token(config: Any) -> None:
    """Labels are shifted behind a token that a config without a tokenizer may not name."""
    for name in ("decoder_start_token_id", "pad_token_id"):
        if getattr(config, name, None) is None:
            setattr(config, name, 0)


def _experts(chosen: str | None) -> ExpertKernel:
    """Classes that cannot choose loop over their experts."""
    known: dict[str | None, ExpertKernel] = {"grouped_mm": "grouped_mm", "batched_mm": "batched_mm"}
    return known.get(chosen, "eager")


def _sum(output: Any) -> Tensor:
    """A loss for a class that has none: the sum of all that it returns."""
    floats = [t for t in output.values() if isinstance(t, Tensor) and t.is_floating_point() and t.requires_grad]
    return torch.stack([tensor.float().sum() for tensor in floats]).sum()


def _has_logits(tree: Any) -> bool:
    return any(isinstance(row.leaf, Linear) and row.leaf.yields_logits for row in walk(tree))


def _blocks(tree: Any) -> list[tuple[str, tuple[int, ...] | range]]:
    """Path of every repeated block, with ``*`` for its index, and the indices."""
    found: dict[tuple[str, tuple[int, ...]], None] = {}
    for row in walk(tree):
        if row.indices and row.indices[0] is not None:
            found[(row.path.partition("*")[0] + "*", tuple(row.indices[0]))] = None
    return list(found)


def compared(kept: tuple[KeptTensor, ...], predicted: tuple[SavedTensor, ...], blocks: list[str]) -> tuple[Part, ...]:
    """Kept bytes block by block, and outside of them, side by side."""
    heads = tuple(dict.fromkeys(path.removesuffix("*") for path in blocks))
    actual: dict[tuple[str, int | None], int] = {}
    single: list[tuple[int, tuple[str, int | None]]] = []
    for tensor in kept:
        # What blocks share was made outside of them, and is read by a single one where there is no other.
        paths = tensor.paths if tensor.made_in is None else (tensor.made_in,)
        places = {_place(path, heads) for path in paths}
        place = places.pop() if len(places) == 1 else (OUTSIDE, None)
        actual[place] = actual.get(place, 0) + tensor.size_bytes
        if place[1] is not None:
            single.append((tensor.size_bytes, place))
    expected: dict[tuple[str, int | None], int] = {}
    for saved in predicted:
        for place in _predicted_places(saved):
            expected[place] = expected.get(place, 0) + int(saved.size_bytes)
    for size, place in single:
        # What blocks share may be kept by a single one, and so look like its own.
        missing = expected.get((OUTSIDE, None), 0) - actual.get((OUTSIDE, None), 0)
        if size <= missing and size == actual[place] - expected.get(place, 0):
            actual[place] -= size
            actual[(OUTSIDE, None)] = actual.get((OUTSIDE, None), 0) + size
    together: dict[tuple[str, Figure], int] = {}
    for place in dict.fromkeys((*actual, *expected)):
        figure = Figure(expected.get(place, 0), actual.get(place, 0))
        together[(place[0], figure)] = together.get((place[0], figure), 0) + 1
    return tuple(
        Part(name=name, copies=copies, kept=Figure(copies * one.expected, copies * one.actual))
        for (name, one), copies in together.items()
    )


def _place(path: str, heads: tuple[str, ...]) -> tuple[str, int | None]:
    for head in heads:
        if path.startswith(head):
            index = path[len(head) :].partition(".")[0]
            if index.isdigit():
                return f"{head}*", int(index)
    # A loss is computed by the model itself, or by a module that is named so.
    return (LOSS if not path or path.endswith("loss_fct") else OUTSIDE), None


def _predicted_places(saved: SavedTensor) -> Iterator[tuple[str, int | None]]:
    """Where each copy of a tensor stands: blocks that are nested in others, or run several times, share a place."""
    if not saved.indices or not saved.indices[0]:
        for _ in range(int(saved.copies)):
            yield (LOSS if saved.path == LOSS else OUTSIDE), None
        return
    indices = saved.indices[0]
    for index in indices:
        for _ in range(int(saved.copies) // len(indices)):
            yield saved.path.partition("*")[0] + "*", index
