"""The rules of planner/ARCHITECTURE.md, held by reading the sources."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import planner

PACKAGE = Path(planner.__file__).parent

LAYERS = (
    {"_version", "errors", "numeric"},
    {"units", "nodes", "catalog"},
    {"formulas"},
    {"families", "workload", "formats", "kv_formats", "parallelism"},
    {"precisions", "optimizers", "devices", "counts"},
    {"sources", "compute", "memory", "quantisation", "sharding", "activations", "cache"},
    {"adapters", "real"},
    {"models"},
    {"checkpoint", "explain", "article", "located", "headers"},
    {"training", "engines"},
    {"verify", "serving"},
    {"validate", "fit"},
    {"scenario"},
    {"plan", "schema"},
    {"report"},
    {"sweep"},
    {"cli"},
)
"""Modules and packages from the lowest to the highest: each imports only from its own layer or one below it."""

HEAVY = {
    "torch",
    "transformers",
    "fvcore",
    "pandas",
    "pyarrow",
    "sympy",
    "huggingface_hub",
    "duckdb",
    "gguf",
    "safetensors",
}
"""What takes long to import, and so is imported where it is used."""


def _files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def _part(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imports(tree: ast.AST) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append(node.module)
    return found


@pytest.mark.parametrize("path", _files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    rank = {name: level for level, names in enumerate(LAYERS) for name in names}
    part = _part(path)
    if part in ("__init__", "__main__"):
        return
    for module in _imports(ast.parse(path.read_text(encoding="utf-8"))):
        if module.startswith("planner."):
            imported = module.split(".")[1]
            assert rank[imported] <= rank[part], f"{part} imports {imported}"


def test_every_part_has_a_layer() -> None:
    parts = {_part(path) for path in _files()} - {"__init__", "__main__"}
    assert parts == set().union(*LAYERS)


@pytest.mark.parametrize("path", _files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_heavy_packages_are_imported_where_they_are_used(path: Path) -> None:
    if _part(path) in ("real", "verify", "sweep"):
        return  # loaded by the one command that needs it
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    names = {name.split(".")[0] for node in top for name in _imports(ast.Module(body=[node], type_ignores=[]))}
    assert not names & HEAVY


def test_formulas_know_no_nodes_and_make_no_text() -> None:
    for path in (PACKAGE / "formulas").glob("*.py"):
        source = path.read_text(encoding="utf-8")
        imports = {name for name in _imports(ast.parse(source)) if name.startswith("planner")}
        assert imports <= {"planner.numeric", "planner.units"} | {
            f"planner.formulas.{other.stem}" for other in (PACKAGE / "formulas").glob("*.py")
        }
        assert not any(isinstance(node, ast.JoinedStr) for node in ast.walk(ast.parse(source)))


def test_only_real_and_verify_import_torch() -> None:
    for path in _files():
        if _part(path) not in ("real", "verify"):
            roots = {name.split(".")[0] for name in _imports(ast.parse(path.read_text(encoding="utf-8")))}
            assert not roots & {"torch", "fvcore", "transformers"}, path


def test_no_file_says_where_it_was_made() -> None:
    root = PACKAGE.parent
    forbidden = ("/" + "work/", "/" + "root/", "shared" + "/data", "shared" + "/findings")
    for folder in ("planner", "scenarios", "tests", ".github", ".ci"):
        for path in (root / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                text = path.read_text(encoding="utf-8", errors="ignore")
                assert not [word for word in forbidden if word in text], path


LIGHT_COMMANDS = [
    ["--help"],
    ["params", "bert-base-uncased"],
    ["params", "meta-llama/Llama-3.1-8B", "--format", "json"],
    ["flops", "meta-llama/Llama-3.1-8B", "--sequence-length", "128"],
    ["memory", "meta-llama/Llama-3.1-8B", "--training"],
    ["gpus"],
    ["plan", "PLAN"],
]


@pytest.mark.parametrize("command", LIGHT_COMMANDS, ids=" ".join)
def test_light_commands_load_nothing_heavy(command: list[str], tmp_path: Path) -> None:
    scenario = tmp_path / "one.yaml"
    scenario.write_text("model: bert-base-uncased\ngpu: T4\nsequence_length: 128\n", encoding="utf-8")
    arguments = [str(scenario) if word == "PLAN" else word for word in command]
    program = (
        "import sys\nfrom planner.cli import main\n"
        f"sys.argv = {['planner', *arguments]!r}\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        f"print('LOADED', sorted({HEAVY!r} & set(sys.modules)))\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)  # noqa: S603
    assert run.stdout.splitlines()[-1:] == ["LOADED []"], run.stderr + run.stdout


def test_importing_the_package_loads_neither_torch_nor_pandas() -> None:
    program = f"import sys, planner\nprint(sorted({HEAVY | {'numpy'}!r} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)  # noqa: S603
    assert run.stdout == "[]\n"


def test_the_public_names_are_sorted_and_real() -> None:
    assert planner.__all__ == sorted(planner.__all__)
    assert all(hasattr(planner, name) for name in planner.__all__)
