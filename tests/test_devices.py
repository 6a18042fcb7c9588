"""The accelerator catalog: every row well formed, well-known figures as published, names as users type them."""

import math
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

import planner.catalog
from planner import devices
from planner.catalog import Fact, read_facts
from planner.devices import COUNTERS, PARAMETERS, PEAK_UNITS, Device, find_device, load_devices, matching_devices
from planner.errors import CatalogError, UnknownNameError

UNITS = {"-", "GB", "MiB", "B", "GB/s", "TFLOP/s", "TOP/s", "W"}
HEADER = "name,parameter,value,unit,source\n"
SMALLEST = {
    "id": "x-1,-",
    "vendor": "Acme,-",
    "architecture": "One,-",
    "form": "card,-",
    "year": "2030,-",
    "memory_nominal": "1073741824,B",
    "memory_type": "HBM9,-",
    "interconnect_type": "none,-",
    "max_per_node": "2,-",
}


def shipped_facts() -> list[tuple[str, str, Fact]]:
    facts = read_facts(devices.FILENAME)
    return [(name, parameter, fact) for name, rows in facts.items() for parameter, fact in rows.items()]


def catalog_text(rows: dict[str, str], name: str = "X1") -> str:
    return "".join(f"{name},{parameter},{value_and_unit},data sheet\n" for parameter, value_and_unit in rows.items())


def forget() -> None:
    for cached in (read_facts, load_devices, devices._spellings, devices._vocabulary):
        cached.cache_clear()


@pytest.fixture
def catalog(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    def use(text: str) -> None:
        monkeypatch.setattr(planner.catalog, "read_text", lambda _: HEADER + text)
        forget()

    yield use
    forget()


# The shipped rows


def test_there_are_at_least_sixty_accelerators() -> None:
    assert len(load_devices()) >= 60


def test_every_fact_has_a_known_unit_and_a_public_source() -> None:
    assert set(PARAMETERS.values()) == UNITS
    for name, parameter, fact in shipped_facts():
        assert fact.unit == PARAMETERS[parameter], (name, parameter)
        assert len(fact.source) >= 5, (name, parameter)
        assert not any(word in fact.source for word in ("general knowledge", "shared/", "/work", "/tmp")), fact.source  # noqa: S108


def test_names_and_identifiers_are_unique() -> None:
    loaded = load_devices().values()
    assert len({device.name for device in loaded}) == len({device.id for device in loaded}) == len(loaded)


def test_no_dense_peak_is_above_its_sparse_one() -> None:
    compared = 0
    for rows in read_facts(devices.FILENAME).values():
        for dtype, unit in PEAK_UNITS.items():
            dense, sparse = rows.get(f"peak_dense_{dtype}"), rows.get(f"peak_sparse_{dtype}")
            if dense is not None and sparse is not None:
                assert dense.number(unit) < sparse.number(unit)
                compared += 1
    assert compared >= 20


def test_a_halved_peak_is_half_of_the_sparse_one() -> None:
    for name, rows in read_facts(devices.FILENAME).items():
        for dtype, unit in PEAK_UNITS.items():
            dense, sparse = rows.get(f"peak_dense_{dtype}"), rows.get(f"peak_sparse_{dtype}")
            if dense is not None and sparse is not None and "half of the sparse" in dense.source:
                # One per cent and a half: vendors round the sparse figure ("4000 AI TOPS", 733).
                assert 2 * dense.number(unit) == pytest.approx(sparse.number(unit), rel=0.015), (name, dtype)


@pytest.mark.parametrize("device", load_devices().values(), ids=lambda device: device.id)
def test_memory_is_near_the_size_sold(device: Device) -> None:
    rows = read_facts(devices.FILENAME)[device.name]
    # DRAM dies are binary, so "80 GB" is 80 * 2**30.
    sold = rows["memory_sold"].integer("GB") * 2**30
    assert device.memory_nominal_bytes * device.devices_per_card == sold
    # The driver, ECC and disabled banks take up to 10 %; macOS keeps up to a third of a unified memory for itself.
    least = 0.66 if device.memory_basis == "metal" else 0.90
    assert least * device.memory_nominal_bytes <= device.memory_bytes <= device.memory_nominal_bytes
    assert isinstance(device.memory_bytes, int)


@pytest.mark.parametrize("device", load_devices().values(), ids=lambda device: device.id)
def test_memory_comes_from_the_first_counter_that_is_known(device: Device) -> None:
    known = [basis for basis, parameter in COUNTERS.items() if parameter in device.sources]
    assert device.memory_basis == known[0]
    assert list(COUNTERS) == ["torch", "smi", "metal", "nominal"]


@pytest.mark.parametrize("device", load_devices().values(), ids=lambda device: device.id)
def test_figures_are_in_base_units(device: Device) -> None:
    # From an M1's 68 GB/s and 2.6 TFLOP/s up; ten times the largest of today would be a unit mistaken.
    if device.bandwidth_bytes_per_second is not None:
        assert 50e9 <= device.bandwidth_bytes_per_second <= 20e12
    assert all(1e12 <= peak <= 50e15 for peak in device.peak_flops.values())
    if device.interconnect_bytes_per_second is not None:
        assert 10e9 <= device.interconnect_bytes_per_second <= 2e12
    if device.power_watts is not None:
        assert 50 <= device.power_watts <= 2000
    assert 2010 <= device.year <= 2030
    assert 1 <= device.interconnect_domain <= 1024
    assert math.isfinite(device.max_per_node)


def test_a_link_moves_half_of_its_bidirectional_figure_one_way() -> None:
    for rows in read_facts(devices.FILENAME).values():
        if "interconnect_bidirectional" in rows:
            both = rows["interconnect_bidirectional"].number("GB/s")
            assert rows["interconnect_per_direction"].number("GB/s") == both / 2


# Published figures: the data sheets named, and the products that they follow from.


def test_h100_sxm() -> None:
    h100 = find_device("H100 SXM5 80GB")
    # NVIDIA H100 architecture white paper, 2022: 132 SMs * 1.830 GHz * 4096 FLOP = 989.4e12 dense. Sheets print 989.
    assert h100.peak_flops["bf16"] == pytest.approx(989.4e12, rel=1e-3)
    assert h100.peak_flops["fp8"] == pytest.approx(2 * 989.4e12, rel=1e-3)
    assert h100.bandwidth_bytes_per_second == 3.35e12
    # NVLink 4: 18 links * 25 GB/s one way
    assert h100.interconnect_bytes_per_second == 450e9
    assert h100.power_watts == 700
    # torch prints total_memory=81089MB, where MB means 2**20
    assert (h100.memory_bytes, h100.memory_basis) == (81089 * 2**20, "torch")


def test_a100_80gb_sxm() -> None:
    a100 = find_device("A100 SXM4 80GB")
    # NVIDIA A100 80GB data sheet, 2021: 108 SMs * 1.410 GHz * 2048 FLOP = 311.9e12
    assert a100.peak_flops["bf16"] == pytest.approx(311.9e12, rel=1e-3)
    assert a100.peak_flops["int8"] == 624e12
    assert "fp8" not in a100.peak_flops
    assert a100.bandwidth_bytes_per_second == 2.039e12
    assert a100.interconnect_bytes_per_second == 300e9
    assert a100.power_watts == 400


def test_rtx_4090() -> None:
    rtx = find_device("GeForce RTX 4090")
    # NVIDIA Ada white paper, 2022: 128 SMs * 2.520 GHz * 512 FLOP with fp32 accumulators = 165.2e12
    assert rtx.peak_flops["bf16"] == pytest.approx(165.2e12, rel=1e-3)
    # 384 bits * 21 Gbit/s / 8
    assert rtx.bandwidth_bytes_per_second == 1.008e12
    assert rtx.power_watts == 450
    assert (rtx.interconnect, rtx.interconnect_domain) == ("none", 1)


def test_mi300x() -> None:
    mi300x = find_device("Instinct MI300X")
    # AMD MI300X data sheet, 2023: 304 CUs * 2.1 GHz * 2048 FLOP = 1307.4e12
    assert mi300x.peak_flops["bf16"] == 1307.4e12
    assert mi300x.bandwidth_bytes_per_second == 5.3e12
    assert mi300x.power_watts == 750
    # 192 GiB less 16 MiB
    assert mi300x.memory_bytes == 192 * 2**30 - 16 * 2**20
    # 7 links of 64 GB/s one way, but only one of them joins any two devices
    assert mi300x.interconnect_bytes_per_second == 7 * 64e9
    assert mi300x.interconnect_p2p_bytes_per_second == 64e9


def test_t4_and_v100() -> None:
    # NVIDIA T4 data sheet, 2019: 40 SMs * 1.590 GHz * 1024 FLOP = 65.1e12; 70 W; no bf16 in Turing's tensor cores
    t4 = find_device("T4")
    assert t4.peak_flops["fp16"] == pytest.approx(65.1e12, rel=2e-3)
    assert (t4.bandwidth_bytes_per_second, t4.power_watts) == (320e9, 70)
    assert "bf16" not in t4.peak_flops
    # NVIDIA V100 data sheet, 2020: 80 SMs * 1.530 GHz * 1024 FLOP = 125.3e12
    v100 = find_device("V100 16GB")
    assert v100.peak_flops["fp16"] == pytest.approx(125.3e12, rel=3e-3)
    assert v100.bandwidth_bytes_per_second == 900e9


def test_a_card_of_two_devices_is_halved() -> None:
    # AMD MI250X data sheet, 2021: 383 TFLOP/s, 128 GB and 3.277 TB/s a card of two dies, each a device of its own
    die = find_device("MI250X")
    assert die.devices_per_card == 2
    assert die.peak_flops["bf16"] == 383e12 / 2
    assert die.bandwidth_bytes_per_second == 3.277e12 / 2
    assert die.memory_nominal_bytes == 64 * 2**30
    assert die.memory_bytes == 65520 * 2**20


# Names


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("H100", "H100 SXM5 80GB"),
        ("h100-80gb", "H100 SXM5 80GB"),
        ("H100 80GB", "H100 SXM5 80GB"),
        ("H100 80GB SXM", "H100 SXM5 80GB"),
        ("h100 sxm5 80gb", "H100 SXM5 80GB"),
        ("NVIDIA H100 80GB HBM3", "H100 SXM5 80GB"),
        ("H100 PCIe", "H100 PCIe 80GB"),
        ("H100 NVL", "H100 NVL 94GB"),
        ("A100 80GB", "A100 SXM4 80GB"),
        ("a100-80g", "A100 SXM4 80GB"),
        ("a100 80 GiB", "A100 SXM4 80GB"),
        ("A100_40GB", "A100 SXM4 40GB"),
        ("NVIDIA A100-SXM4-80GB", "A100 SXM4 80GB"),
        ("NVIDIA A100 80GB PCIe", "A100 PCIe 80GB"),
        ("rtx-4090", "GeForce RTX 4090"),
        ("RTX4090", "GeForce RTX 4090"),
        ("4090", "GeForce RTX 4090"),
        ("4060ti", "GeForce RTX 4060 Ti 16GB"),
        ("NVIDIA GeForce RTX 3090", "GeForce RTX 3090"),
        ("MI300X", "Instinct MI300X"),
        ("AMD Instinct MI300X", "Instinct MI300X"),
        ("p100-sxm2-16g", "Tesla P100 SXM2 16GB"),
        ("Tesla V100-SXM2-32GB", "Tesla V100 SXM2 32GB"),
        ("A10", "A10"),
        ("a10g", "A10G (AWS)"),
        ("L4", "L4"),
        ("l4 24gb", "L4"),
        ("L40", "L40"),
        ("nvidia l40s", "L40S"),
        ("A6000", "RTX A6000"),
        ("6000 ada", "RTX 6000 Ada Generation"),
        ("h200", "H200 SXM5 141GB"),
        ("b200", "B200 SXM6"),
        ("gb200", "GB200 (per GPU)"),
        ("v5e", "TPU v5e (v5litepod)"),
        ("Gaudi 3", "Gaudi3"),
        ("trn2", "Trainium2 (trn2)"),
        ("m1", "Apple M1"),
        ("m1 max", "Apple M1 Max"),
    ],
)
def test_find_device(typed: str, name: str) -> None:
    assert find_device(typed).name == name


@pytest.mark.parametrize("device", load_devices().values(), ids=lambda device: device.id)
def test_every_name_identifier_and_alias_finds_its_device(device: Device) -> None:
    for spelling in (device.name, device.id, *device.aliases):
        for typed in (spelling, spelling.upper(), spelling.lower(), spelling.replace(" ", "-")):
            assert find_device(typed).name == device.name, typed


def test_an_ambiguous_name_names_its_candidates() -> None:
    with pytest.raises(UnknownNameError, match="'A100' is ambiguous") as caught:
        find_device("A100")
    assert str(caught.value).endswith(
        "(it could be 'A100 SXM4 40GB', 'A100 SXM4 80GB', 'A100 PCIe 40GB', 'A100 PCIe 80GB')"
    )
    assert [device.id for device in matching_devices("gh200")] == ["gh200-96g", "gh200-144g"]


@pytest.mark.parametrize(("typed", "hint"), [("H1000", "'H100'"), ("rtx-409", "'rtx-4090'"), ("mi300", "'mi300x'")])
def test_an_unknown_name_has_its_near_miss(typed: str, hint: str) -> None:
    with pytest.raises(UnknownNameError, match=f"unknown accelerator '{typed}'") as caught:
        find_device(typed)
    assert caught.value.hint is not None
    assert hint in caught.value.hint


@pytest.mark.parametrize("typed", ["", "  ", "--", "€€", "quantum annealer of the year 2071"])
def test_a_name_without_anything_close_is_unknown(typed: str) -> None:
    with pytest.raises(UnknownNameError, match="unknown accelerator"):
        find_device(typed)


# Broken catalogs


def test_the_smallest_entry_loads(catalog: Callable[[str], None]) -> None:
    catalog(catalog_text(SMALLEST))
    device = find_device("x1")
    assert (device.memory_bytes, device.memory_basis, device.devices_per_card) == (2**30, "nominal", 1)
    assert (device.peak_flops, device.bandwidth_bytes_per_second, device.interconnect_domain) == ({}, None, 1)


@pytest.mark.parametrize("missing", SMALLEST)
def test_a_missing_fact_is_named(catalog: Callable[[str], None], missing: str) -> None:
    catalog(catalog_text({parameter: value for parameter, value in SMALLEST.items() if parameter != missing}))
    with pytest.raises(CatalogError, match=f"devices.csv: 'X1' has no row '{missing}'"):
        load_devices()


@pytest.mark.parametrize(
    ("parameter", "value_and_unit", "message"),
    [
        ("bandwidth", "3.35,TB/s", r"devices.csv:11: expected the unit 'GB/s', found 'TB/s'"),
        ("year", "2030,W", r"devices.csv:6: expected the unit '-', found 'W'"),
        ("vendor", "Acme,W", r"devices.csv:3: expected the unit '-', found 'W'"),
        ("power", "seven hundred,W", r"devices.csv:11: 'seven hundred' is not a number"),
        ("power", "nan,W", "'nan' is not a finite number"),
        ("peak_dense_bf16", "inf,TFLOP/s", "'inf' is not a finite number"),
        ("bandwidth", "-5,GB/s", "'-5' is not a positive number"),
        ("memory_torch_total", "1000.5,MiB", r"'1000.5' is not a whole number"),
        ("max_per_node", "0,-", "0 is not positive"),
        ("bandwith", "5,GB/s", "unknown parameter 'bandwith' .did you mean 'bandwidth'"),
    ],
)
def test_a_broken_row_is_refused(
    catalog: Callable[[str], None], parameter: str, value_and_unit: str, message: str
) -> None:
    catalog(catalog_text({**SMALLEST, parameter: value_and_unit}))
    with pytest.raises(CatalogError, match=message):
        load_devices()


def test_a_broken_table_is_refused(catalog: Callable[[str], None]) -> None:
    catalog(catalog_text(SMALLEST) + "X1,year,2031,-,data sheet\n")
    with pytest.raises(CatalogError, match=r"devices.csv:11: 'year' of 'X1' is given twice"):
        load_devices()
    catalog("X1,year,2031,-,\n")
    with pytest.raises(CatalogError, match=r"devices.csv:2: the cell 'source' is empty"):
        load_devices()


def test_two_devices_cannot_share_a_spelling(catalog: Callable[[str], None]) -> None:
    other = catalog_text({**SMALLEST, "id": "x-2,-", "alias": "second;X 1,-"}, name="X2")
    catalog(catalog_text(SMALLEST) + other)
    with pytest.raises(CatalogError, match="'X 1' names both 'X1' and 'X2'"):
        find_device("second")


# What loading costs


def test_the_catalog_needs_no_heavy_library() -> None:
    code = (
        "import sys; from planner.devices import find_device; find_device('H100')\n"
        "print({'numpy', 'pandas', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603
    assert done.stdout.strip() == "set()"
