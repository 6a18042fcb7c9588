"""Blocks of a tree as frameworks with blocks of their own see them: sublayers and widths, not names of a class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from planner.errors import PlannerError
from planner.nodes import Attention, Convolution, Experts, Linear, Norm, Row, Scan, Stream
from planner.numeric import Num

QUERY_DOWN = "q_a_proj"


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionPart:
    """An attention and its projections.

    Attributes
    ----------
    row : Row
        Its products.
    hidden : Num
        Width of what it reads. [-]
    query_latent : Num
        Width of MLA's latent of queries; 0 where it has none. [-]
    latent, rotated : Num or None
        Widths of MLA's latent of keys and values, and of the rotated part of a key. [-]
    normed_heads : bool
        Whether norms stand over single queries and keys.
    """

    row: Row
    hidden: Num
    query_latent: Num = 0
    latent: Num | None = None
    rotated: Num = 0
    normed_heads: bool = False

    @property
    def core(self) -> Attention:
        """The products."""
        assert isinstance(self.row.leaf, Attention)  # noqa: S101 - made so
        return self.row.leaf

    @property
    def kv_heads(self) -> Num:
        """Key/value heads that are multiplied: MLA expands its latents to all of them. [-]"""
        core = self.core
        return core.num_heads if core.num_kv_heads is None or self.latent is not None else core.num_kv_heads


@dataclass(frozen=True, slots=True, kw_only=True)
class MlpPart:
    """Matrices with an activation between them.

    Attributes
    ----------
    path : str
        Of the module.
    stream : Stream
        Positions that pass.
    hidden, first, second : Num
        Width of what it reads, of what its first matrices write together, and of what the second reads. [-]
    """

    path: str
    stream: Stream
    hidden: Num
    first: Num
    second: Num


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutedPart:
    """A router, its experts, and those that every token visits."""

    row: Row
    shared: tuple[MlpPart, ...]

    @property
    def experts(self) -> Experts:
        """The experts."""
        assert isinstance(self.row.leaf, Experts)  # noqa: S101 - made so
        return self.row.leaf


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanPart:
    """A recurrence and its projections.

    Attributes
    ----------
    row : Row
        The recurrence.
    hidden, projected, inner, convolved : Num
        Width of what it reads, of what its first matrix writes, of what its second reads, and of what its
        convolution passes; 0 where there is none. [-]
    """

    row: Row
    hidden: Num
    projected: Num
    inner: Num
    convolved: Num


@dataclass(slots=True, kw_only=True)
class Layer:
    """Blocks of one kind.

    Attributes
    ----------
    path : str
        Of the list of blocks, with its ``*``.
    indices : tuple of int, range or None
        Positions; None where their number is a column.
    copies : Num
        How many there are. [-]
    rows : list of Row
        Leaves of one of them.
    """

    path: str
    indices: tuple[int, ...] | range | None
    copies: Num
    rows: list[Row] = field(default_factory=list)

    @property
    def hidden(self) -> Num:
        """Width of what passes from block to block. [-]"""
        return _first_width(self.rows)

    @property
    def attentions(self) -> tuple[AttentionPart, ...]:
        """Attentions in the order of the tree; those that only choose keys are none."""
        return tuple(self._attention(row) for row in self.rows if _attends(row))

    def _attention(self, row: Row) -> AttentionPart:
        around = f"{row.path}."
        inside = [other for other in self.rows if other.path.startswith(around)]
        cached = row.leaf.cached if isinstance(row.leaf, Attention) else None
        latent = cached is not None and cached.kind == "latent"
        query = [
            leaf.out_features
            for leaf in (other.leaf for other in inside if other.path.endswith(f".{QUERY_DOWN}"))
            if isinstance(leaf, Linear)
        ]
        norms = [other for other in inside if isinstance(other.leaf, Norm)]
        return AttentionPart(
            row=row,
            hidden=self.hidden,
            query_latent=query[0] if query else 0,
            latent=cached.key_width if cached is not None and latent else None,
            rotated=cached.value_width if cached is not None and latent else 0,
            normed_heads=bool(norms) and not latent,
        )

    @property
    def mlps(self) -> tuple[MlpPart, ...]:
        """MLPs that every token passes, those beside routed experts left out."""
        return tuple(_mlps(self.rows, "mlp"))

    @property
    def routed(self) -> tuple[RoutedPart, ...]:
        """Routed experts."""
        shared = tuple(_mlps(self.rows, "experts.shared"))
        return tuple(RoutedPart(row=row, shared=shared) for row in self.rows if isinstance(row.leaf, Experts))

    @property
    def scans(self) -> tuple[ScanPart, ...]:
        """Recurrences."""
        return tuple(self._scan(row) for row in self.rows if isinstance(row.leaf, Scan))

    def _scan(self, row: Row) -> ScanPart:
        inside = [other for other in self.rows if other.path.startswith(f"{row.path}.")]
        matrices = [other.leaf for other in inside if isinstance(other.leaf, Linear)]
        filters = [other.leaf for other in inside if isinstance(other.leaf, Convolution)]
        return ScanPart(
            row=row,
            hidden=self.hidden,
            projected=matrices[0].out_features if matrices else 0,
            inner=matrices[-1].in_features if matrices else 0,
            convolved=filters[0].out_channels if filters else 0,
        )


def layers_of(rows: Sequence[Row]) -> list[Layer]:
    """Blocks of every kind, in the order of the tree."""
    found: dict[tuple[str, object], Layer] = {}
    for row in rows:
        if "*" not in row.path:
            continue
        outer = row.indices[0]
        path = row.path.split(".*", 1)[0] + ".*"
        # Where the number of blocks is a column, the object that holds it tells kinds apart.
        key = (path, id(row.copies) if outer is None else tuple(outer))
        layer = found.setdefault(key, Layer(path=path, indices=outer, copies=row.copies))
        layer.rows.append(row)
    return list(found.values())


def check_dense(layers: Sequence[Layer], profile: str) -> None:
    """Refuse blocks that the profile of a framework knows nothing of.

    Raises
    ------
    PlannerError
        One of them has routed experts or a recurrence.
    """
    for layer in layers:
        if layer.routed or layer.scans:
            raise PlannerError(
                f"{profile}'s profile covers neither routed experts nor recurrences, as in {layer.path}", key="recipe"
            )


def _attends(row: Row) -> bool:
    leaf = row.leaf
    return isinstance(leaf, Attention) and row.backward and leaf.keys not in ("distances",)


def _first_width(rows: Sequence[Row]) -> Num:
    for row in rows:
        if isinstance(row.leaf, Linear):
            return row.leaf.in_features
        if isinstance(row.leaf, Experts):
            return row.leaf.hidden_size
    return 0


def _mlps(rows: Sequence[Row], bucket: str) -> Iterator[MlpPart]:
    holders: dict[str, list[Row]] = {}
    for row in rows:
        if isinstance(row.leaf, Linear) and (row.bucket == bucket or row.bucket.endswith(f".{bucket}")):
            holders.setdefault(row.path.rpartition(".")[0], []).append(row)
    if holders and all(len(matrices) < 2 for matrices in holders.values()):
        # As in BERT, whose two matrices lie in modules of their own.
        together = [row for matrices in holders.values() for row in matrices]
        holders = {together[0].path.rpartition(".")[0]: together}
    for path, matrices in holders.items():
        leaves = [row.leaf for row in matrices if isinstance(row.leaf, Linear)]
        if len(leaves) < 2:
            continue
        first: Num = 0
        for leaf in leaves[:-1]:
            first = first + leaf.out_features
        yield MlpPart(
            path=path,
            stream=matrices[0].stream,
            hidden=leaves[0].in_features,
            first=first,
            second=leaves[-1].in_features,
        )
