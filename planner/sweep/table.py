"""The report of a sweep: which columns it has, in which unit, what they mean, and the rows themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from planner.report.tables import Cell, Table, harmless
from planner.scenario import COMBINING, FIELDS, NUMBERS
from planner.schema import unit_of
from planner.sweep.columns import Coded, Codes
from planner.sweep.evaluate import Result

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

Kind = Literal["text", "integer", "number", "flag"]

BATCH_ROWS = 65_536
"""Rows that are turned into text at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of the report.

    Attributes
    ----------
    name, unit, description : str
        For people; a name of a quantity carries its unit.
    kind : str
        ``text``, ``integer`` (exact), ``number`` or ``flag``.
    """

    name: str
    unit: str
    description: str
    kind: Kind


def _result(name: str, unit: str, kind: Kind, description: str) -> Column:
    return Column(name=name, unit=unit, kind=kind, description=description)


RESULTS: tuple[Column, ...] = (
    _result("total_parameters", "-", "integer", "Every parameter, tied tensors once."),
    _result("active_parameters", "-", "integer", "Those that one token meets: all but the experts it is not sent to."),
    _result("weights_bytes", "B", "integer", "Weights as stored, without their scales."),
    _result("scales_bytes", "B", "integer", "Scales and zero points of quantised weights."),
    _result("gradients_bytes", "B", "integer", "Gradients, in training."),
    _result("master_weights_bytes", "B", "integer", "Copy of the weights that the optimizer updates, in training."),
    _result("optimizer_bytes", "B", "integer", "States of the optimizer, in training."),
    _result("total_bytes", "B", "integer", "Sum of the five; no activations, KV cache or runtime."),
    _result("largest_row", "-", "text", "Largest of the five."),
    _result(
        "forward_flops_per_token",
        "FLOP/token",
        "number",
        "One forward pass over the positions that it processes; convention matmul, a multiply-add is 2.",
    ),
    _result("training_flops_per_token", "FLOP/token", "number", "The same with backward, every parameter trained."),
    _result("gpus", "GPU", "integer", "GPUs of the job: tp x pp x dp x cp; with a recipe or an engine."),
    _result("steady_bytes", "B", "integer", "Allocated between steps on the fullest GPU; with a recipe."),
    _result("peak_bytes", "B", "integer", "Allocated at most on the fullest GPU; with a recipe."),
    _result(
        "peak_low_bytes", "B", "integer", "90 % of measurements of the recipe lie between this and peak_high_bytes."
    ),
    _result("peak_high_bytes", "B", "integer", "See peak_low_bytes; blank where no measurement covers the recipe."),
    _result(
        "device_bytes",
        "B",
        "integer",
        "Peak as the driver reports it: allocator, context, collectives; for an engine, with its pool.",
    ),
    _result("kv_pool_bytes", "B", "integer", "Left for the KV cache on a GPU; with an engine."),
    _result("kv_tokens", "token", "integer", "Tokens that the pool holds; with an engine."),
    _result("max_concurrency", "-", "number", "Requests of max_model_len that the pool holds; with an engine."),
    _result("starts", "-", "flag", "Whether the engine starts: one such request fits."),
    _result("refused", "-", "text", "Why such a layout cannot exist; with a recipe or an engine."),
    _result("gpu_memory_bytes", "B", "integer", "Memory of one GPU that programs can see."),
    _result(
        "headroom_bytes",
        "B",
        "integer",
        "Memory of one GPU less device_bytes, or less total_bytes without a recipe; negative where it does not fit.",
    ),
    _result(
        "fits",
        "-",
        "flag",
        "Whether one GPU holds device_bytes, or, without a recipe, total_bytes: the model's states.",
    ),
    _result(
        "min_gpus", "GPU", "integer", "Fewest GPUs of the kind whose memory together holds total_bytes, spread evenly."
    ),
)
"""Columns that are computed, in the order of the report."""


OPTIONAL = frozenset(
    {
        "gpus",
        "steady_bytes",
        "peak_bytes",
        "peak_low_bytes",
        "peak_high_bytes",
        "device_bytes",
        "kv_pool_bytes",
        "kv_tokens",
        "max_concurrency",
        "starts",
        "refused",
    }
)
"""Those that a report has only where a row asks for a job or an engine."""


def input_column(name: str, values: Coded | None = None) -> Column:
    """Column of a field, or of a changed config key, whose kind depends on its values."""
    if name.startswith("set."):
        kind = kind_of(values.values if values is not None else ())
        return Column(name=name, unit="-", kind=kind, description=f"Config key {name.removeprefix('set.')}.")
    description = "Class of transformers that is counted." if name == "class" else FIELDS[name].description or ""
    return Column(name=name, unit=unit_of(name), kind=_kind_of_field(name), description=description)


def _kind_of_field(name: str) -> Kind:
    """Kind of the values that a field takes."""
    if name in NUMBERS:
        return "integer"
    kinds = {FIELDS[name].annotation, *get_args(FIELDS[name].annotation)}
    kinds |= {part for kind in kinds for part in get_args(kind)}
    return "number" if float in kinds else "flag" if bool in kinds else "text"


def kind_of(values: tuple[Any, ...]) -> Kind:
    """Kind of a column by its values, of which some may be None."""
    stated = [value for value in values if value is not None]
    if stated and all(isinstance(value, bool) for value in stated):
        return "flag"
    if any(isinstance(value, bool) or not isinstance(value, (int, float)) for value in stated):
        return "text"
    return "number" if any(isinstance(value, float) for value in stated) else "integer"


def column_table() -> Table:
    """Every column of a report with its unit and what it means, for the documentation."""
    inputs = [
        Column(name="set.<key>", unit="-", kind="text", description=field.description or "")
        if name == "set"
        else input_column(name)
        for name, field in FIELDS.items()
    ]
    rows = [[column.name, column.unit, column.kind, column.description] for column in (*inputs, *RESULTS)]
    return Table(title="columns of a sweep", columns=("column", "unit", "kind", "meaning"), rows=rows)


def field_table() -> Table:
    """Every key of a scenario with its unit, its default and what it means, for the documentation."""
    rows = [[key, unit_of(key), _default(key), field.description or ""] for key, field in FIELDS.items()]
    rows += [[key, "-", "-", text] for key, text in COMBINING.items()]
    return Table(title="keys of a scenario", columns=("key", "unit", "default", "meaning"), rows=rows)


def _default(key: str) -> str:
    field = FIELDS[key]
    if field.is_required():
        return "required"
    return "-" if field.default is None or field.default_factory is not None else str(field.default)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Rows of a sweep.

    Attributes
    ----------
    name : str
        The scenario's.
    columns : tuple of Column
        In order.
    data : mapping of str to array or Coded
        By the name of the column; a column about GPUs is missing where none is asked about, and is all blank.
    rows : int
        Rows. [-]
    inputs : tuple of str
        Names of the columns that are inputs.
    notes : tuple of str
        What a reader should know about the rows.
    assumptions : tuple of str
        What the models' configs left open, or hold that nobody read.
    """

    name: str
    columns: tuple[Column, ...]
    data: Mapping[str, Result]
    rows: int
    inputs: tuple[str, ...]
    notes: tuple[str, ...]
    assumptions: tuple[str, ...] = ()

    def cells(self, column: str, rows: Codes) -> list[Cell]:
        """Cells of one column in some rows."""
        values = self.data.get(column)
        if values is None:
            return [None] * len(rows)
        if isinstance(values, Coded):
            shown = [_cell(value) for value in values.values]
            return [shown[code] for code in values.codes[rows]]
        cells: list[Cell] = values[rows].tolist()
        return cells

    def batches(self, *, for_spreadsheets: bool = False) -> Iterator[pa.RecordBatch]:
        """Rows as Arrow batches, of which a writer needs one at a time.

        Parameters
        ----------
        for_spreadsheets : bool
            Texts that a spreadsheet would run as a formula are made harmless.
        """
        import pyarrow as pa

        schema = self.arrow_schema()
        words = {column.name: self._words(column, for_spreadsheets) for column in self.columns}
        for start in range(0, self.rows, BATCH_ROWS):
            rows = slice(start, min(start + BATCH_ROWS, self.rows))
            arrays = [
                self._array(field, words[column.name], rows) for column, field in zip(self.columns, schema, strict=True)
            ]
            yield pa.RecordBatch.from_arrays(arrays, schema=schema)

    def arrow_schema(self) -> pa.Schema:
        """Names and types, each with its unit and description as metadata."""
        import pyarrow as pa

        types = {"text": pa.string(), "integer": pa.int64(), "number": pa.float64(), "flag": pa.bool_()}
        return pa.schema(
            [
                pa.field(
                    column.name,
                    types[column.kind],
                    metadata={"unit": column.unit, "description": column.description},
                )
                for column in self.columns
            ]
        )

    def to_pandas(self) -> pd.DataFrame:
        """Rows as a data frame; a column of integers in which some are missing keeps them exact as ``Int64``."""
        import pandas as pd
        import pyarrow as pa

        table = pa.Table.from_batches(list(self.batches()), schema=self.arrow_schema())
        exact = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}
        nullable = [column for column in table.column_names if table[column].null_count]
        frame: pd.DataFrame = table.drop_columns(nullable).to_pandas()
        for name in nullable:
            frame[name] = table[name].to_pandas(types_mapper=exact.get)
        return frame.reindex(columns=table.column_names)

    def _words(self, column: Column, for_spreadsheets: bool) -> Any:
        """Distinct values of a coded column as an Arrow array; None for the other columns."""
        import pyarrow as pa

        values = self.data.get(column.name)
        if not isinstance(values, Coded):
            return None
        cells: list[Cell] = [_cell(value) for value in values.values]
        if column.kind == "text":
            cells = [None if cell is None else str(harmless(cell) if for_spreadsheets else cell) for cell in cells]
        return pa.array(cells, type=self.arrow_schema().field(column.name).type)

    def _array(self, field: pa.Field, words: Any, rows: slice) -> pa.Array:
        import pyarrow as pa

        values = self.data.get(field.name)
        if values is None:
            return pa.nulls(rows.stop - rows.start, field.type)
        if isinstance(values, Coded):
            return words.take(pa.array(np.ascontiguousarray(values.codes[rows])))
        return pa.array(values[rows], type=field.type)


def _cell(value: Any) -> Cell:
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    import json

    return json.dumps(value)
