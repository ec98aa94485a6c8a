"""The coverage of each arm's leak audit in the report."""

import json

import pytest

from mlens.comparison.report import report
from mlens.errors import UserError
from tests.helpers.made_up_runs import make_run


def audited(prompts: int, drawn: int, leaks: int = 0) -> dict:
    stage = {"targets": prompts, "visible": 10 * prompts, "shown": {"prompts": drawn, "ratings": 5}}
    return {"leaks": {"later": leaks, "itself": 0}, "stages": {"train": stage, "test": stage}, "seconds": 0.1}


def add(folder, audit) -> None:
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps(summary | {"audit": audit}))


def test_each_arm_has_a_line_and_runs_without_an_audit_are_marked(tmp_path):
    runs = {name: make_run(tmp_path / name, name) for name in ("none", "all_previous", "random", "fixed_count")}
    add(runs["none"], audited(2000, 2000))
    add(runs["random"], audited(2000, 300))
    add(make_run(tmp_path / "again", "fixed_count", seed=1), audited(2000, 2000))
    written = report([tmp_path], tmp_path)
    coverage = "0 leaks in 4,000 prompts (all 40,000 ratings that they may show, and the histories that are drawn for"
    lines = [
        f"none: {coverage} all of them)",
        f"random: {coverage} 600 of them)",
        "all_previous: not audited",
        "fixed_count: not audited (fixed_count)",
    ]
    page, text = written.html.read_text(), (tmp_path / "report.md").read_text()
    for line in lines:
        assert f"<li>{line}</li>" in page
        assert f"\n- {line}\n" in text


@pytest.mark.parametrize("audit", [None, [], {"leaks": {}}, {"leaks": {"later": "no"}, "stages": {}}])
def test_an_invalid_audit_is_refused(tmp_path, audit):
    add(make_run(tmp_path / "a"), audit)
    with pytest.raises(UserError, match="audit"):
        report([tmp_path], tmp_path)
