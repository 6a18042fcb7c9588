"""Memory of llama.cpp: the layers of each device, the cache beside them, the compute buffer, and the host's part."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from planner.cache import Requests, cache_bytes, storage
from planner.counts import Matrices, Tensor, held_tensors
from planner.errors import UnknownNameError, UnsupportedError, near_miss
from planner.formats import Dtype, WeightFormat, load_formats
from planner.formulas.memory import packed_bytes
from planner.formulas.profile_run import compute_buffer_bytes
from planner.memory import MemoryRow
from planner.models import Model
from planner.nodes import Attention, Embedding, Linear, Node, Row, walk
from planner.numeric import Num, is_column, maximum
from planner.parallelism import even_split
from planner.quantisation import Span, Stored, chosen_dtypes, outline_of, spans, stored_matrices
from planner.serving.formats import PLAIN
from planner.serving.rope import stated_positions
from planner.sharding import counted_layers, main_stack

UBATCH = 512
"""llama.cpp, common/common.h: n_ubatch. [token]"""

DEFAULT_CONTEXT = 4096
"""llama.cpp, common/common.h: n_ctx where neither the user nor the model says. [token]"""

CACHE_TYPES = {"f16": "fp16", "f32": "fp32", "bf16": "bf16"}


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaOptions:
    """Flags of llama.cpp, under its own names.

    Attributes
    ----------
    weights : str, optional
        Type of the file, such as ``q4_k_m``; a format of the catalog.
    bits_per_weight : float, optional
        Average of the file, where its type is none of the catalog. [bit]
    n_gpu_layers : int, optional
        Layers on devices, the last ones first; the output matrix counts as one. All where left out.
    gpus : int
        Devices that share the layers evenly. [-]
    ctx_size : Num, optional
        Tokens of the cache, over all sequences. [token]
    ubatch_size : Num
        Tokens that are computed at once. [token]
    cache_type : str
        Of keys and values.
    flash_attn : bool
        Scores are not kept.
    """

    weights: str | None = None
    bits_per_weight: float | None = None
    n_gpu_layers: int | None = None
    gpus: int = 1
    ctx_size: Num | None = None
    ubatch_size: Num = UBATCH
    cache_type: str = "f16"
    flash_attn: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaDevice:
    """One device, or the host.

    Attributes
    ----------
    name : str
        ``GPU 0`` and so on, or ``host``.
    layers : tuple of int
        Its layers.
    weights_bytes, cache_bytes, compute_bytes : Num
        Buffers, as its log calls them. [B]
    """

    name: str
    layers: tuple[int, ...]
    weights_bytes: Num
    cache_bytes: Num
    compute_bytes: Num

    @property
    def total_bytes(self) -> Num:
        """All buffers. [B]"""
        return self.weights_bytes + self.cache_bytes + self.compute_bytes

    @property
    def rows(self) -> tuple[MemoryRow, ...]:
        """Buffers by name."""
        return (
            MemoryRow(
                name="model buffer", size_bytes=self.weights_bytes, basis="exact", source="tensors of its layers"
            ),
            MemoryRow(name="KV buffer", size_bytes=self.cache_bytes, basis="exact", source="cells of its layers"),
            MemoryRow(
                name="compute buffer",
                size_bytes=self.compute_bytes,
                basis="modelled",
                source="scores, mask, logits and hidden states of a micro-batch: src/llama-graph.cpp",
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaServing:
    """Devices and host.

    Attributes
    ----------
    devices : tuple of LlamaDevice
        In order; the last one holds the output matrix.
    host : LlamaDevice
        The token table, and layers that are on no device.
    """

    devices: tuple[LlamaDevice, ...]
    host: LlamaDevice


def serve_llama(model: Model, options: LlamaOptions, tree: Node | None = None) -> LlamaServing:
    """Memory of llama.cpp.

    Raises
    ------
    UnknownNameError
        The type of the file is none of the catalog, and no average is stated.
    """
    tree = model.tree if tree is None else tree
    rows = list(walk(tree))
    stack = main_stack(rows)
    count = counted_layers(rows, stack)
    if is_column(options.gpus):
        raise UnsupportedError("layers cannot be placed on a number of devices that is swept", key="tp")
    offloaded = count + 1 if options.n_gpu_layers is None else min(options.n_gpu_layers, count + 1)
    on_host = tuple(range(max(count + 1 - offloaded, 0))) if offloaded else tuple(range(count + 1))
    shares = even_split(offloaded, options.gpus)
    sizes = _Sizes(tree, rows, stack, options)
    own = stated_positions(model.raw, model.name) or DEFAULT_CONTEXT
    context = own if options.ctx_size is None else options.ctx_size
    devices = []
    start = len(on_host)
    for gpu, share in enumerate(shares):
        held = tuple(range(start, start + share))
        start += share
        devices.append(_device(f"GPU {gpu}", held, count, sizes, tree, context, options, head=count in held))
    layers_of_host = tuple(layer for layer in on_host if layer < count)
    host = _device("host", layers_of_host, count, sizes, tree, context, options, head=count in on_host, table=True)
    return LlamaServing(devices=tuple(devices), host=host)


def _device(
    name: str,
    held: tuple[int, ...],
    count: int,
    sizes: _Sizes,
    tree: Node,
    context: Num,
    options: LlamaOptions,
    *,
    head: bool,
    table: bool = False,
) -> LlamaDevice:
    layers = tuple(layer for layer in held if layer < count)
    weights: Num = sizes.of_layers(layers)
    weights = weights + (sizes.head if head else 0) + (sizes.table if table else 0)
    cache: Num = 0
    if layers:
        kept_in = storage(CACHE_TYPES.get(_plain_cache(options.cache_type), _plain_cache(options.cache_type)))
        cache = cache_bytes(tree, Requests(tokens=context), kept_in, layers=layers).total_bytes
    compute: Num = 0
    if layers or head:
        core = next((row.leaf for row in walk(tree) if isinstance(row.leaf, Attention) and row.leaf.causal), None)
        heads = 0 if core is None or options.flash_attn else core.num_heads
        compute = compute_buffer_bytes(
            options.ubatch_size, context, heads, sizes.hidden, sizes.inner, sizes.vocabulary if head else 0
        )
    return LlamaDevice(name=name, layers=layers, weights_bytes=weights, cache_bytes=cache, compute_bytes=compute)


def _plain_cache(name: str) -> str:
    lowered = name.lower()
    return "f16" if lowered.startswith("auto") else lowered


class _Sizes:
    """Bytes of a model's parts as its file stores them."""

    def __init__(self, tree: Node, rows: list[Row], stack: str | None, options: LlamaOptions) -> None:
        self._tree, self._rows, self._stack, self._options = tree, rows, stack, options
        self._outline = outline_of(tree)
        self._spans = tuple(spans(tree))
        self._format = _file_format(options)
        outside = [(row, span) for row, span in zip(rows, self._spans, strict=True) if not self._inside(row)]
        tables = [(row, span) for row, span in outside if isinstance(row.leaf, Embedding)]
        others = [(row, span) for row, span in outside if not isinstance(row.leaf, Embedding)]
        text = [(row, span) for row, span in others if not row.bucket.startswith(("vision.", "audio.", "projector"))]
        self.table: Num = self._sum(tables, None)
        self.head: Num = self._sum(text, None)
        heads = [row for row in rows if isinstance(row.leaf, Linear) and row.leaf.yields_logits]
        if heads and heads[0].tied_to is not None:
            self.head = self.head + self.table  # a tied table is on the host and beside the last layer
        head = heads[0].leaf if heads else None
        self.hidden: Num = head.in_features if isinstance(head, Linear) else 0
        self.vocabulary: Num = head.out_features if isinstance(head, Linear) else 0
        self.inner: Num = 0
        for row in rows:
            if isinstance(row.leaf, Linear) and row.bucket == "mlp":
                self.inner = maximum(self.inner, row.leaf.out_features)

    def _inside(self, row: Row) -> bool:
        return self._stack is not None and row.path.startswith(f"{self._stack}.*")

    def of_layers(self, layers: tuple[int, ...]) -> Num:
        """Bytes of some layers. [B]"""
        inside = [(row, span) for row, span in zip(self._rows, self._spans, strict=True) if self._inside(row)]
        return self._sum(inside, layers)

    def _sum(self, placed: Sequence[tuple[Row, Span | None]], layers: tuple[int, ...] | None) -> Num:
        total: Num = 0
        for row, span in placed:
            share: Num = row.copies
            if layers is not None and row.indices and row.indices[0] is not None:
                outer = set(row.indices[0])
                share = row.copies // len(outer) * len(outer & set(layers))
            for tensor in held_tensors(row):
                if self._format is None:
                    total = total + packed_bytes(share * tensor.numel, self._options.bits_per_weight or 0)
                    continue
                for dtype, copies in chosen_dtypes(row, tensor, span, self._outline, self._format, layers):
                    each = _stored(tensor, dtype)
                    total = total + (copies if layers is not None else row.copies) * (each.codes + each.scales)
        return total


def _stored(tensor: Tensor, dtype: Dtype) -> Stored:
    width = tensor.shape[-1]
    return stored_matrices(tensor.matrices or Matrices(1, tensor.numel // width, width), dtype)


def _file_format(options: LlamaOptions) -> WeightFormat | None:
    if options.bits_per_weight is not None:
        return None
    name = "f16" if options.weights in (None, "none") else str(options.weights)
    plain = re.sub(r"^gguf[ -]", "", name.strip().lower())
    known = load_formats()
    # A file of one type keeps vectors in fp32, which the formats of other files do not say.
    for spelling in (f"gguf-{plain}", f"gguf-{PLAIN.get(plain, plain).replace('fp', 'f')}"):
        if spelling in known:
            return known[spelling]
    types = [spelling.removeprefix("gguf-") for spelling in known if spelling.startswith("gguf-")]
    raise UnknownNameError(f"'{name}' is no type of a GGUF file", key="quantization", hint=near_miss(plain, types))
