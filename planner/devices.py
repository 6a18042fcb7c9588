"""Accelerators: the catalog's facts in base units, and the names that users type for them.

A `Device` is what a framework enumerates as one device. A card that shows up as two of them (MI250X, TPU7x) has its
printed figures divided on load, since no tensor and no rank spans both halves.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache

from planner.catalog import Fact, read_facts
from planner.errors import CatalogError, UnknownNameError, near_miss
from planner.units import GB, GIB, MIB, TERA

FILENAME = "devices.csv"
"""The catalog file of the accelerators."""

PEAK_UNITS: Mapping[str, str] = {
    "fp32": "TFLOP/s",
    "tf32": "TFLOP/s",
    "fp16": "TFLOP/s",
    "bf16": "TFLOP/s",
    "fp8": "TFLOP/s",
    "int8": "TOP/s",
    "fp4": "TFLOP/s",
    "int4": "TOP/s",
}
"""Number formats that have a peak, with the unit that vendors print it in."""

PARAMETERS: Mapping[str, str] = {
    "id": "-",
    "alias": "-",
    "vendor": "-",
    "architecture": "-",
    "form": "-",
    "year": "-",
    "memory_sold": "GB",
    "memory_options": "-",
    "devices_per_card": "-",
    "memory_torch_total": "MiB",
    "memory_smi_visible": "MiB",
    "memory_metal_budget": "MiB",
    "memory_nominal": "B",
    "memory_type": "-",
    "bandwidth": "GB/s",
    **{f"peak_dense_{dtype}": unit for dtype, unit in PEAK_UNITS.items()},
    # GeForce tensor cores reach the advertised rate only with fp16 accumulators, which no matmul of torch uses.
    "peak_dense_fp16_acc16": "TFLOP/s",
    **{f"peak_sparse_{dtype}": unit for dtype, unit in PEAK_UNITS.items()},
    "interconnect_type": "-",
    "interconnect_bidirectional": "GB/s",
    "interconnect_per_direction": "GB/s",
    "interconnect_p2p_per_direction": "GB/s",
    "interconnect_domain": "-",
    "pcie": "-",
    "power": "W",
    "max_per_node": "-",
}
"""Closed list of what the catalog may say about an accelerator, each with its one unit (``-``: a word or a count)."""

COUNTERS: Mapping[str, str] = {
    "torch": "memory_torch_total",
    "smi": "memory_smi_visible",
    "metal": "memory_metal_budget",
    "nominal": "memory_nominal",
}
"""Counters of visible memory and their parameters, the one closest to what an allocator gets first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One accelerator as a framework enumerates it, in base units.

    Attributes
    ----------
    name : str
        The catalog's name, unique.
    id : str
        Short identifier without blanks, unique.
    aliases : tuple of str
        Other spellings that mean this accelerator.
    vendor, architecture, form, memory_type : str
        As the vendor calls them.
    year : int
        Year of release.
    memory_bytes : int
        Memory that programs can see, before any context or driver of theirs takes its part. [B]
    memory_basis : str
        Counter behind `memory_bytes`: ``torch`` (``total_memory``), ``smi`` (nvidia-smi, rocm-smi), ``metal``
        (recommended working set), or ``nominal`` (size sold, an upper bound).
    memory_nominal_bytes : int
        Size sold. [B]
    bandwidth_bytes_per_second : float or None
        Peak of the device memory; None where the sources disagree. [B/s]
    peak_flops : mapping of str to float
        Dense peak by number format, of `PEAK_UNITS`; a format without a known peak has no key. [FLOP/s]
    interconnect : str
        Link between devices, ``none`` where only PCIe joins them.
    interconnect_domain : int
        Devices that this link joins at full rate; 1 where it joins none. [device]
    interconnect_bytes_per_second : float or None
        One direction, over all links of the device. [B/s]
    interconnect_p2p_bytes_per_second : float or None
        One direction between two devices, where it is known to be less than over all links. [B/s]
    pcie : str or None
        Generation and lanes of the host link.
    power_watts : float or None
        Board power limit. [W]
    max_per_node : int
        Most devices in one node. [device]
    devices_per_card : int
        Devices that one card or package shows up as; its printed figures were divided by this. [device]
    sources : mapping of str to str
        Where each catalog parameter of `PARAMETERS` was read.
    """

    name: str
    id: str
    aliases: tuple[str, ...]
    vendor: str
    architecture: str
    form: str
    year: int
    memory_bytes: int
    memory_basis: str
    memory_nominal_bytes: int
    memory_type: str
    bandwidth_bytes_per_second: float | None
    peak_flops: Mapping[str, float] = field(hash=False)
    interconnect: str
    interconnect_domain: int
    interconnect_bytes_per_second: float | None
    interconnect_p2p_bytes_per_second: float | None
    pcie: str | None
    power_watts: float | None
    max_per_node: int
    devices_per_card: int
    sources: Mapping[str, str] = field(hash=False, repr=False)


@cache
def load_devices() -> dict[str, Device]:
    """Accelerators of the catalog by name, in the order of the file.

    Raises
    ------
    CatalogError
        A row has an unknown parameter, a unit that is not the parameter's, or a value that is no positive number;
        or an accelerator lacks a fact that every one must have.

    Examples
    --------
    >>> load_devices()["A100 SXM4 80GB"].bandwidth_bytes_per_second
    2039000000000.0
    """
    return {name: _Entry(name, facts).device() for name, facts in read_facts(FILENAME).items()}


def find_device(name: str) -> Device:
    """Accelerator by name, identifier, alias, or any words that fit only one.

    Parameters
    ----------
    name : str
        As users type it; case, blanks, hyphens and ``80g`` for ``80GB`` make no difference.

    Raises
    ------
    UnknownNameError
        The name fits none, or several; the message names them.

    Examples
    --------
    >>> find_device("rtx-4090").name, find_device("a100-80g").name
    ('GeForce RTX 4090', 'A100 SXM4 80GB')
    """
    matches = matching_devices(name)
    if len(matches) > 1:
        candidates = ", ".join(f"'{device.name}'" for device in matches)
        raise UnknownNameError(f"accelerator '{name}' is ambiguous", hint=f"it could be {candidates}")
    return matches[0]


def matching_devices(name: str) -> list[Device]:
    """Accelerators that a name can mean: the one it spells exactly, or else every one that has all of its words.

    Parameters
    ----------
    name : str
        As users type it.

    Returns
    -------
    list of Device
        At least one, in the order of the catalog.

    Raises
    ------
    UnknownNameError
        The name fits none.

    Examples
    --------
    >>> [device.name for device in matching_devices("P100")]
    ['Tesla P100 SXM2 16GB', 'Tesla P100 PCIe 16GB']
    """
    devices = load_devices()
    words = _words(name)
    exact = _spellings().get("".join(words))
    if exact is not None:
        return [devices[exact]]
    matches = [device for device in devices.values() if _vocabulary(device.name).issuperset(words)] if words else []
    if not matches:
        known = [spelling for device in devices.values() for spelling in (device.name, device.id, *device.aliases)]
        raise UnknownNameError(f"unknown accelerator '{name}'", hint=near_miss(name, known) or "see `planner gpus`")
    return matches


def _words(text: str) -> list[str]:
    # "80g", "80 GB" and "80gib" are one word; the boundary keeps the g of "A10G".
    text = re.sub(r"\b(\d+)[\s_-]*(?:gib|gb|g)\b", r"\1gb", text.casefold())
    return re.findall(r"[a-z0-9]+", text)


@cache
def _spellings() -> dict[str, str]:
    """Device name by every complete spelling, with and without the vendor in front."""
    spellings: dict[str, str] = {}
    for device in load_devices().values():
        for spelling in (device.name, device.id, *device.aliases):
            for full in (spelling, f"{device.vendor} {spelling}"):
                if spellings.setdefault("".join(_words(full)), device.name) != device.name:
                    raise CatalogError(
                        f"'{spelling}' names both '{spellings[''.join(_words(full))]}' and '{device.name}'",
                        file=FILENAME,
                    )
    return spellings


@cache
def _vocabulary(name: str) -> frozenset[str]:
    """Words that a user may use for a device, those glued together ("rtx4090") included."""
    device = load_devices()[name]
    sold_gib = device.memory_nominal_bytes * device.devices_per_card // GIB
    vocabulary = set(_words(f"{device.vendor} {device.form} {device.memory_type} {sold_gib}gb"))
    for spelling in (device.name, device.id, *device.aliases):
        words = _words(spelling)
        vocabulary.update(
            "".join(words[start:end]) for start in range(len(words)) for end in range(start + 1, 1 + len(words))
        )
    return frozenset(vocabulary)


class _Entry:
    """The rows of one accelerator while they become a `Device`."""

    def __init__(self, name: str, facts: Mapping[str, Fact]) -> None:
        self._name = name
        self._facts = facts
        for parameter, fact in facts.items():
            self._check(parameter, fact)

    def device(self) -> Device:
        per_card = self._count("devices_per_card", default=1)
        basis, memory_bytes = next(self._memories(per_card))
        interconnect = self._text("interconnect_type")
        per_direction = self._scaled("interconnect_per_direction", GB, per_card)
        max_per_node = self._count("max_per_node")
        return Device(
            name=self._name,
            id=self._text("id"),
            aliases=tuple(self._facts["alias"].value.split(";")) if "alias" in self._facts else (),
            vendor=self._text("vendor"),
            architecture=self._text("architecture"),
            form=self._text("form"),
            year=self._count("year"),
            memory_bytes=memory_bytes,
            memory_basis=basis,
            memory_nominal_bytes=self._required("memory_nominal").integer("B") // per_card,
            memory_type=self._text("memory_type"),
            bandwidth_bytes_per_second=self._scaled("bandwidth", GB, per_card),
            peak_flops=dict(self._peaks(per_card)),
            interconnect=interconnect,
            interconnect_domain=self._count("interconnect_domain", default=max_per_node if per_direction else 1),
            interconnect_bytes_per_second=per_direction,
            interconnect_p2p_bytes_per_second=self._scaled("interconnect_p2p_per_direction", GB, per_card),
            pcie=self._facts["pcie"].value if "pcie" in self._facts else None,
            power_watts=self._scaled("power", 1, per_card),
            max_per_node=max_per_node,
            devices_per_card=per_card,
            sources={parameter: fact.source for parameter, fact in self._facts.items()},
        )

    def _check(self, parameter: str, fact: Fact) -> None:
        if parameter not in PARAMETERS:
            raise CatalogError(
                f"unknown parameter '{parameter}'", file=FILENAME, key=self._name, hint=near_miss(parameter, PARAMETERS)
            )
        unit = PARAMETERS[parameter]
        if fact.unit == unit == "-":
            return
        number = fact.number(unit)
        if not (math.isfinite(number) and number > 0):
            raise CatalogError(
                f"'{fact.value}' is not a positive number", file=FILENAME, key=f"{self._name}: {parameter}"
            )

    def _memories(self, per_card: int) -> Iterator[tuple[str, int]]:
        for basis, parameter in COUNTERS.items():
            if basis == "nominal":
                yield basis, self._required(parameter).integer("B") // per_card
            elif parameter in self._facts:
                # Not divided: these counters are read from one device.
                yield basis, self._facts[parameter].integer("MiB") * MIB

    def _peaks(self, per_card: int) -> Iterator[tuple[str, float]]:
        for dtype in PEAK_UNITS:
            peak = self._scaled(f"peak_dense_{dtype}", TERA, per_card)
            if peak is not None:
                yield dtype, peak

    def _scaled(self, parameter: str, factor: int, per_card: int) -> float | None:
        if parameter not in self._facts:
            return None
        # Rounded, so that 1307.4 TFLOP/s is 1307400000000000 and not a neighbour of it.
        return float(round(self._facts[parameter].number(PARAMETERS[parameter]) * factor)) / per_card

    def _count(self, parameter: str, default: int | None = None) -> int:
        if default is not None and parameter not in self._facts:
            return default
        count = self._required(parameter).integer("-")
        if count < 1:
            raise CatalogError(f"{count} is not positive", file=FILENAME, key=f"{self._name}: {parameter}")
        return count

    def _text(self, parameter: str) -> str:
        return self._required(parameter).value

    def _required(self, parameter: str) -> Fact:
        if parameter not in self._facts:
            raise CatalogError(f"'{self._name}' has no row '{parameter}'", file=FILENAME)
        return self._facts[parameter]
