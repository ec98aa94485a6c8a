"""The examples in docstrings are true."""

import doctest
from importlib import import_module

import pytest

from tests.helpers.runs import ROOT

SHOWN = [file for file in sorted((ROOT / "mlens").rglob("*.py")) if ">>> " in file.read_text(encoding="utf-8")]


@pytest.mark.parametrize("file", SHOWN, ids=lambda file: file.stem)
def test_a_modules_examples(file):
    module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
    result = doctest.testmod(import_module(module))
    assert result.attempted > 0 and result.failed == 0
