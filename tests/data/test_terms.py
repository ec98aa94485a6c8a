"""What conf/data/*.yaml say of licence and citation is what a model's card says."""

import re

import pytest
import yaml

from mlens.config import resolve_class
from tests.helpers.runs import CONF

FILES = sorted((CONF / "data").glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_terms_stand_in_the_comment(file):
    node = yaml.safe_load(file.read_text())
    target = node.pop("_target_")
    said = resolve_class("data", target)(**node).terms
    comment = " ".join(line.removeprefix("#").strip() for line in re.findall(r"^#.*", file.read_text(), re.MULTILINE))
    if file.stem.startswith("ml_"):
        assert said.name == f"MovieLens {file.stem.replace('_', '-')} (GroupLens)"
        assert f"Licence (GroupLens): {said.licence}." in comment and f"Citation: {said.citation}." in comment
    elif file.stem != "sample":
        assert f"Licence: {said.licence.replace('the data', 'your data')}." in comment
        assert f"Citation: {said.citation}." in comment if said.citation else "Citation" not in comment
