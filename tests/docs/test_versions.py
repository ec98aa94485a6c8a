"""The versions that are stated and tested are those that pyproject.toml allows."""

import re
import runpy
import sys

from tests.helpers.runs import ROOT

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
PAGE = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
TABLE = re.findall(r"^\| `([\w-]+)` \| ([\w.]+) \| ([\w.]+) \|$", PAGE, re.MULTILINE)


def test_the_table_has_pyprojects_lowest_versions(monkeypatch, capsys):
    (extras,) = re.findall(r"^LOWEST_EXTRAS := (.*)", MAKEFILE, re.MULTILINE)
    monkeypatch.setattr(sys, "argv", ["lowest_versions.py", extras])
    runpy.run_path(str(ROOT / ".ci" / "lowest_versions.py"))
    assert [f"{name}=={lowest}" for name, lowest, _ in TABLE] == capsys.readouterr().out.split()


def test_the_tests_of_the_lowest_versions_exist():
    (paths,) = re.findall(r"^LOWEST_TESTS := ((?:.*\\\n)*.*)", MAKEFILE, re.MULTILINE)
    assert [path for path in paths.replace("\\", "").split() if not (ROOT / path).exists()] == []
