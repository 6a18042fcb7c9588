"""`planner gpus`: what it prints reads back as what the catalog holds."""

import csv
import io
import json

import pytest
from typer.testing import CliRunner, Result

from planner.cli.app import app
from planner.devices import load_devices
from planner.errors import UnknownNameError


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["gpus", *arguments], catch_exceptions=True)


def output(*arguments: str) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def names(*arguments: str) -> list[str]:
    return [record["name"] for record in json.loads(output(*arguments, "--format", "json"))]


def test_text_fits_in_two_hundred_columns() -> None:
    lines = output().splitlines()
    assert max(map(len, lines)) <= 200
    # Nothing was folded: every accelerator is one line that starts with its whole name.
    for name in load_devices():
        assert sum(line.startswith(f"  {name}  ") for line in lines) == 1, name


def test_json_has_a_record_for_each_accelerator() -> None:
    records = {record["name"]: record for record in json.loads(output("--format", "json"))}
    assert list(records) == list(load_devices())
    h100 = records["H100 SXM5 80GB"]
    # 81089 MiB = 79.19 GiB
    assert (h100["memory GiB"], h100["counter"]) == (79.19, "torch")
    assert (h100["bandwidth GB/s"], h100["bf16 TFLOP/s"], h100["int8 TOP/s"]) == (3350, 989, 1979)
    assert (h100["interconnect"], h100["link GB/s"], h100["power W"]) == ("NVLink4", 450, 700)
    assert h100["fp4 TFLOP/s"] is None


def test_csv_reads_back_as_the_json() -> None:
    rows = list(csv.DictReader(io.StringIO(output("--format", "csv"))))
    records = json.loads(output("--format", "json"))
    as_text = [{key: "" if cell is None else str(cell) for key, cell in record.items()} for record in records]
    assert rows == as_text


def test_markdown_has_a_line_for_each_accelerator() -> None:
    lines = output("h100", "4090", "--format", "markdown").splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("| name | vendor |")
    assert lines[2].startswith("| H100 SXM5 80GB | NVIDIA |")


def test_names_choose_and_order() -> None:
    assert names("4090", "H100", "h100-80gb") == ["GeForce RTX 4090", "H100 SXM5 80GB"]
    assert names("a100") == ["A100 SXM4 40GB", "A100 SXM4 80GB", "A100 PCIe 40GB", "A100 PCIe 80GB"]


def test_filters() -> None:
    assert set(names("--vendor", "amd")) == {d.name for d in load_devices().values() if d.vendor == "AMD"}
    large = names("--vendor", "nvidia", "--min-memory", "100")
    assert "H200 SXM5 141GB" in large
    # 79.19 GiB visible, though sold as 80 GB
    assert "H100 SXM5 80GB" in names("--min-memory", "79")
    assert "H100 SXM5 80GB" not in names("--min-memory", "80")
    assert names("a100", "--min-memory", "64") == ["A100 SXM4 80GB", "A100 PCIe 80GB"]


@pytest.mark.parametrize("output_format", ["text", "json", "csv", "markdown"])
def test_nothing_left_is_an_empty_table(output_format: str) -> None:
    text = output("--vendor", "amd", "--min-memory", "100000", "--format", output_format)
    if output_format == "json":
        assert json.loads(text) == []
    else:
        assert "memory GiB" in text


def test_sources_list_every_fact_of_the_chosen() -> None:
    facts = json.loads(output("H100", "mi300x", "--sources", "--format", "json"))
    assert {fact["name"] for fact in facts} == {"H100 SXM5 80GB", "Instinct MI300X"}
    assert {tuple(fact) for fact in facts} == {("name", "parameter", "value", "unit", "source")}
    by_parameter = {fact["parameter"]: fact for fact in facts if fact["name"] == "H100 SXM5 80GB"}
    assert (by_parameter["bandwidth"]["value"], by_parameter["bandwidth"]["unit"]) == ("3350", "GB/s")
    assert by_parameter["vendor"]["unit"] is None
    assert all(fact["source"] for fact in facts)
    assert sum(len(device.sources) for device in load_devices().values()) == len(
        list(csv.DictReader(io.StringIO(output("--sources", "--format", "csv"))))
    )
    assert max(map(len, output("--sources").splitlines())) <= 200


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["H1000"], "unknown accelerator 'H1000'"),
        (["--vendor", "nvidea"], "unknown vendor 'nvidea', expected one of .*did you mean 'NVIDIA'"),
        (["--format", "yaml"], "unknown format 'yaml'"),
    ],
)
def test_an_unknown_word_is_an_error(arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert isinstance(result.exception, UnknownNameError)
    with pytest.raises(UnknownNameError, match=message):
        raise result.exception


def test_a_negative_size_is_a_usage_error() -> None:
    assert run("--min-memory", "-1").exit_code == 2
