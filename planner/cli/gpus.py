"""`planner gpus`: the accelerators that the planner knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

    from planner.devices import Device
    from planner.report import Table
    from planner.report.tables import Cell

LEFT_OUT_OF_TEXT = frozenset(
    {
        "vendor",
        "architecture",
        "form",
        "memory type",
        "tf32 TFLOP/s",
        "int4 TOP/s",
        "link domain",
        "PCIe",
        "max per node",
    }
)
"""Columns for which a line of 200 characters has no room; every other format has them."""


def gpus(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="Accelerators, such as H100 or rtx-4090; all of them if none is named."),
    ] = None,
    vendor: Annotated[str | None, typer.Option(help="Only this vendor's.")] = None,
    min_memory: Annotated[
        float | None,
        typer.Option(metavar="GIB", min=0, help="Only those with at least this much visible memory, in GiB."),
    ] = None,
    output_format: Annotated[
        str,
        typer.Option(
            "--format", help="text, json, csv or markdown; text leaves out the columns that are asked for least."
        ),
    ] = "text",
    sources: Annotated[bool, typer.Option("--sources", help="Every fact with its source, a row each.")] = False,
) -> None:
    """List accelerators: memory, bandwidth, dense peaks, interconnect, power."""
    from planner.devices import load_devices, matching_devices
    from planner.errors import UnknownNameError, near_miss
    from planner.report import render
    from planner.units import GIB

    chosen = list(load_devices().values())
    if names:
        # dict: a device that two names mean is listed once, where the first one put it.
        chosen = list({device.name: device for name in names for device in matching_devices(name)}.values())
    if vendor is not None:
        vendors = sorted({device.vendor for device in load_devices().values()})
        if vendor.casefold() not in {known.casefold() for known in vendors}:
            raise UnknownNameError(
                f"unknown vendor '{vendor}', expected one of {', '.join(vendors)}", hint=near_miss(vendor, vendors)
            )
        chosen = [device for device in chosen if device.vendor.casefold() == vendor.casefold()]
    if min_memory is not None:
        chosen = [device for device in chosen if device.memory_bytes >= min_memory * GIB]
    table = _facts_table(chosen) if sources else _devices_table(chosen, compact=output_format == "text")
    typer.echo(render(table, output_format), nl=False)


def _devices_table(devices: list[Device], *, compact: bool) -> Table:
    from planner.report import Table

    columns = {name: cell for name, cell in _columns().items() if not (compact and name in LEFT_OUT_OF_TEXT)}
    return Table(
        title=f"accelerators: {len(devices)}",
        columns=list(columns),
        rows=[[cell(device) for cell in columns.values()] for device in devices],
        notes=(
            "counter: torch total_memory, smi (nvidia-smi or rocm-smi), metal (recommended working set), nominal size",
            "peaks are dense; link GB/s is one direction over all links; --sources tells where each figure was read",
        ),
    )


def _columns() -> dict[str, Callable[[Device], Cell]]:
    from planner.devices import PEAK_UNITS
    from planner.units import GB, GIB, TERA

    def quotient(value: float | None, unit: int) -> float | None:
        return None if value is None else round(value / unit, 3)

    def peak(dtype: str) -> Callable[[Device], Cell]:
        return lambda device: quotient(device.peak_flops.get(dtype), TERA)

    return {
        "name": lambda device: device.name,
        "vendor": lambda device: device.vendor,
        "architecture": lambda device: device.architecture,
        "form": lambda device: device.form,
        "memory GiB": lambda device: round(device.memory_bytes / GIB, 2),
        "counter": lambda device: device.memory_basis,
        "memory type": lambda device: device.memory_type,
        "bandwidth GB/s": lambda device: quotient(device.bandwidth_bytes_per_second, GB),
        **{f"{dtype} {unit}": peak(dtype) for dtype, unit in PEAK_UNITS.items()},
        "interconnect": lambda device: device.interconnect,
        "link GB/s": lambda device: quotient(device.interconnect_bytes_per_second, GB),
        "link domain": lambda device: device.interconnect_domain,
        "PCIe": lambda device: device.pcie,
        "power W": lambda device: device.power_watts,
        "max per node": lambda device: device.max_per_node,
    }


def _facts_table(devices: list[Device]) -> Table:
    from planner.catalog import FACT_COLUMNS, read_facts
    from planner.devices import FILENAME
    from planner.report import Table

    facts = read_facts(FILENAME)
    return Table(
        title=f"facts of the catalog, accelerators: {len(devices)}",
        columns=FACT_COLUMNS,
        rows=[
            (device.name, parameter, fact.value, None if fact.unit == "-" else fact.unit, fact.source)
            for device in devices
            for parameter, fact in facts[device.name].items()
        ],
    )
