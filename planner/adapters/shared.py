"""Tensors of an adapter that belong to no single module: prompts, and what adapted modules share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from planner.adapters.adapter import Adapter
from planner.adapters.added import AddedTensor, Indices
from planner.adapters.places import site_of
from planner.adapters.shapes import Site
from planner.counts import TOKEN_EMBEDDING, Tensor
from planner.errors import UnsupportedError
from planner.formulas.adapters import tied_groups
from planner.nodes import Attention, Embedding, Row
from planner.numeric import Num, ceil_div, is_column, maximum, minimum

SHARING = frozenset({"lily", "pvera", "randlora", "tinylora", "unilora", "vblora", "vera"})
"""Methods whose modules share something."""

AdaptedRow = tuple[Row, Num, Indices]


def shared_tensors(rows: list[Row], adapter: Adapter, adapted: Sequence[AdaptedRow]) -> Iterator[AddedTensor]:
    """Tensors that are added once for a model, or once for several of its modules.

    Parameters
    ----------
    rows : list of Row
        The model.
    adapter : Adapter
        What is added.
    adapted : sequence of (Row, Num, Indices)
        Modules that have it.

    Raises
    ------
    UnsupportedError
        The number of modules that share a tensor is a column.
    """
    if adapter.spec.targets == "prompt":
        yield from _prompts(rows, adapter)
        return
    if not adapted or adapter.method not in SHARING:
        return
    sites = [(site_of(row, adapter), copies) for row, copies, _ in adapted]
    rank = adapter.rank_or_default
    match adapter.method:
        case "vera" | "pvera":
            twice = 2 if adapter.method == "pvera" else 1
            yield _buffer(adapter, "A", (twice * rank, _largest(site.in_features for site, _ in sites)))
            yield _buffer(adapter, "B", (_largest(site.out_features for site, _ in sites), rank))
        case "randlora":
            yield from _random_bases(adapter, [site for site, _ in sites])
        case "vblora":
            shape = (adapter.count("num_vectors"), adapter.count("vector_length"))
            yield _once("vblora_vector_bank", shape)
        case "unilora":
            yield _once("unilora_theta_d", (adapter.count("theta_d_length"),))
        case "tinylora":
            groups = tied_groups(_whole(sum(copies for _, copies in sites)), adapter.option("weight_tying"))
            yield _once("tinylora_v", (adapter.count("u"),), groups)
        case "lily":
            yield from _lily(adapted, adapter)


def _prompts(rows: list[Row], adapter: Adapter) -> Iterator[AddedTensor]:
    width, layers, first = _outline(rows)
    values = (first.num_heads if first.num_kv_heads is None else first.num_kv_heads) * first.v_head_dim
    match adapter.method:
        case "prefix":
            # one key and one value a layer and virtual token
            yield _once("embedding.weight", (adapter.count("num_virtual_tokens"), layers * 2 * values))
        case "prompt" | "p-tuning":
            tokens = adapter.count("num_virtual_tokens") * adapter.count("num_transformer_submodules")
            yield _once("embedding.weight", (tokens, width))
            if adapter.method == "p-tuning":
                inner = adapter.count("encoder_hidden_size") or width
                for place, (read, written) in enumerate(((width, inner), (inner, inner), (inner, width))):
                    yield _once(f"mlp_head.{2 * place}.weight", (written, read))
                    yield _once(f"mlp_head.{2 * place}.bias", (written,))
        case "adaption-prompt":
            chosen = adapter.count("adapter_layers") or layers
            yield _once("adaption_prompt", (1, adapter.count("adapter_len"), width), minimum(chosen, layers))
            yield _once("adaption_gate", (1,), minimum(chosen, layers))
        case "adapter" | "adapter_v2":
            chosen = maximum(layers - adapter.count("adapter_start_layer"), 0)
            yield _once("adapter_wte.weight", (adapter.count("adapter_prompt_length"), width), chosen)
            yield _once("gating_factor", (1, 1, first.num_heads, 1), chosen)


def _outline(rows: list[Row]) -> tuple[Num, Num, Attention]:
    """Width of a token, layers that attend to tokens, and the attention of the first one.

    Of an encoder-decoder these are the decoder's.
    """
    tables = [
        row.leaf
        for row in rows
        if isinstance(row.leaf, Embedding) and row.bucket == TOKEN_EMBEDDING and not row.tied_to
    ]
    found = [row for row in rows if isinstance(row.leaf, Attention) and row.leaf.keys == "self"]
    layers = [row for row in found if row.stream.kind == "tokens"]
    if not tables or not layers:
        raise UnsupportedError("a prompt needs a model with a table of tokens and attention to them")
    leaf = layers[0].leaf
    assert isinstance(leaf, Attention)  # noqa: S101 - as it was found
    total: Num = 0
    for row in layers:
        total = total + row.copies
    return tables[0].embedding_dim, total, leaf


def _random_bases(adapter: Adapter, sites: list[Site]) -> Iterator[AddedTensor]:
    rank = adapter.rank_or_default
    reads = _largest(site.in_features for site in sites)
    writes = _largest(site.out_features for site in sites)
    short, long = minimum(reads, writes), maximum(reads, writes)
    yield _buffer(adapter, "A", (rank, 1, short))
    yield _buffer(adapter, "B", (long, ceil_div(short, rank), rank))


def _lily(adapted: Sequence[AdaptedRow], adapter: Adapter) -> Iterator[AddedTensor]:
    """Modules of one name and shape share one second factor; so many neighbours of them share a first one."""
    groups: dict[tuple[str, Num, Num], Num] = {}
    for row, copies, _ in adapted:
        site = site_of(row, adapter)
        key = (row.path.rpartition(".")[2], site.in_features, site.out_features)
        groups[key] = groups.get(key, 0) + copies
    rank, written = adapter.rank_or_default, adapter.count("num_B")
    for (name, reads, writes), modules in groups.items():
        yield _once(f"{name}.lily_A.weight", (rank, reads), ceil_div(modules, adapter.count("stride_A")))
        yield _once(f"{name}.lily_B.weight", (written * rank, writes))


def _once(name: str, shape: tuple[Num, ...], copies: Num = 1) -> AddedTensor:
    return AddedTensor(path="", tensor=Tensor(name, shape), copies=copies)


def _buffer(adapter: Adapter, name: str, shape: tuple[Num, ...]) -> AddedTensor:
    return AddedTensor(path="", tensor=Tensor(f"{adapter.method}_{name}", shape), trains=False, kind="buffer")


def _largest(sizes: Iterator[Num]) -> Num:
    largest = next(sizes)
    for size in sizes:
        largest = maximum(largest, size)
    return largest


def _whole(modules: Num) -> int:
    if is_column(modules):
        raise UnsupportedError("modules that share a vector cannot be counted where layers are swept")
    return int(modules)
