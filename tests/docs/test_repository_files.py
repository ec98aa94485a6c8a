"""The files that a hosting service reads: the version that they state, and the commands of the workflow."""

import re

import yaml

from mlens import __version__
from tests.helpers.documents import DOCUMENTS, make_targets
from tests.helpers.runs import ROOT


def test_the_citation_has_the_fields_of_its_format_and_the_projects_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= {*citation}
    assert citation["authors"] == [{"name": "The mlens contributors"}]
    assert (citation["type"], citation["license"]) == ("software", "Apache-2.0")
    assert citation["version"] == __version__


def test_the_method_is_a_listed_document_that_cites_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert "docs/method.md" in DOCUMENTS
    assert "[docs/method.md](docs/method.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
    text = " ".join((ROOT / "docs" / "method.md").read_text(encoding="utf-8").split())
    entry = text.partition("@software{mlens,")[2].partition(" @")[0]
    for value in (citation["title"], citation["version"], str(citation["date-released"]), citation["license"]):
        assert f"{{{value}}}" in entry


def test_the_changelog_has_unreleased_changes_first_and_then_the_projects_version():
    headings = re.findall(r"^## \[(.+?)\]( - \d{4}-\d\d-\d\d)?$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert [name for name, _ in headings[:2]] == ["Unreleased", __version__]
    assert [bool(date) for _, date in headings] == [False] + [True] * (len(headings) - 1)


def test_the_workflow_runs_targets_that_are_in_the_makefile():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    scripts = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    targets = {target for script in scripts for target in re.findall(r"^make ([a-z-]+)$", script, re.MULTILINE)}
    assert targets and targets <= make_targets()
