"""The house rules that no linter knows: sizes of modules and functions, names of modules, what a package file holds."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = ("app", "workers", "migrations")
MODULE_WALL_LINES = 400
FUNCTION_WALL_LINES = 60
LONG_FUNCTION_LINES = 50
LONG_FUNCTIONS_ALLOWED_SHARE = 0.02
FORBIDDEN_MODULE_NAMES = re.compile(r"^(utils?|helpers?|common|misc|.*manager|base_.*)$")


def product_files() -> list[Path]:
    """Return every module of the product."""
    return [path for top in PRODUCT for path in sorted((ROOT / top).rglob("*.py"))]


def functions() -> Iterator[tuple[str, int]]:
    """Yield each function's place and length in lines."""
    for path in product_files():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", (node.end_lineno or 0) - node.lineno + 1


def test_no_module_is_longer_than_the_wall() -> None:
    """A module of more than 400 lines has two subjects."""
    too_long = {
        str(p.relative_to(ROOT)): n
        for p in product_files()
        if (n := len(p.read_text().splitlines())) > MODULE_WALL_LINES
    }

    assert {} == too_long


def test_no_function_is_longer_than_the_wall() -> None:
    """A function holds one thought: at most 60 lines with its docstring, and hardly any above 50."""
    lengths = dict(functions())
    long = {name: n for name, n in lengths.items() if n > LONG_FUNCTION_LINES}

    assert {} == {name: n for name, n in long.items() if n > FUNCTION_WALL_LINES}
    assert len(long) <= LONG_FUNCTIONS_ALLOWED_SHARE * len(lengths), long


def test_no_module_has_a_name_that_says_nothing() -> None:
    """Modules are named by nouns of the field."""
    assert [] == [str(p.relative_to(ROOT)) for p in product_files() if FORBIDDEN_MODULE_NAMES.match(p.stem)]


def test_package_inits_re_export_nothing() -> None:
    """Only a registry may have code in its package file: a re-export would load torch by accident."""
    registries = {"workers/pruning/graph/ops/__init__.py", "workers/pruning/methods/__init__.py"}
    with_imports = {
        str(path.relative_to(ROOT))
        for path in product_files()
        if path.name == "__init__.py"
        and any(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.walk(ast.parse(path.read_text())))
    }

    assert set() == with_imports - registries


@pytest.mark.parametrize("path", [ROOT / "constraints.txt"])
def test_torch_is_pinned_to_the_release_without_cuda_packages(path: Path) -> None:
    """Any other pin pulls gigabytes of CUDA packages onto a CPU machine."""
    assert "torch==2.13.0" in path.read_text().splitlines()
