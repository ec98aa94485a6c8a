"""The structure that docs/design.md describes: which package may import which, and names that are unique."""

import ast
import re
from collections import defaultdict

from tests.helpers.runs import ROOT

# Each imports only from those before it.
CHAIN = (
    *("data", "history", "prompt", "packing", "audit", "model", "engine", "evaluation"),
    *("tracking", "training", "comparison"),
)
FILES = [file for file in sorted((ROOT / "mlens").rglob("*.py")) if not file.is_symlink()]


def imported_modules(file):
    """The modules that a file imports, at its top or in a function."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_a_package_imports_only_from_those_before_it():
    upwards = []
    for file in FILES:
        package = file.relative_to(ROOT / "mlens").parts[0]
        for module in imported_modules(file):
            _, _, other = module.partition("mlens.")
            other = other.partition(".")[0]
            if package in CHAIN and other in CHAIN and CHAIN.index(other) > CHAIN.index(package):
                upwards.append(f"{file.relative_to(ROOT)} imports {module}")
    assert not upwards


def test_the_packages_stand_in_the_document_in_this_order():
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    places = [text.index(f"| `mlens/{package}` |") for package in CHAIN]
    assert places == sorted(places)


def test_only_the_command_line_imports_a_command():
    for file in FILES:
        if file.parent.name != "cli":
            assert not any(module.startswith("mlens.cli") for module in imported_modules(file)), file


def test_hydras_config_goes_no_further_than_the_checked_settings():
    holding = {file.name for file in [*FILES, ROOT / "train.py"] if "DictConfig" in file.read_text(encoding="utf-8")}
    assert holding == {"train.py", "compose.py", "config.py"}


def test_no_file_imports_from_hydras_internals():
    """What can't be had from a public module is isolated in mlens/hydra_private.py, with a test."""
    folders = ("mlens", "hydra_plugins", "tests", "benchmarks", "examples")
    files = [ROOT / "train.py", *(file for folder in folders for file in (ROOT / folder).rglob("*.py"))]
    private = re.compile(r"^\s*(from|import) hydra\.(\w+\.)*_|^\s*from hydra(\.\w+)* import _", re.MULTILINE)
    importing = [str(file.relative_to(ROOT)) for file in files if private.search(file.read_text(encoding="utf-8"))]
    assert not importing


def test_no_two_public_classes_have_the_same_name():
    files = defaultdict(list)
    for file in FILES:
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                files[node.name].append(str(file.relative_to(ROOT)))
    assert not {name: places for name, places in files.items() if len(places) > 1}
