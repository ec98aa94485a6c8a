"""A sweep knows its jobs' models by their content: another one in the same place is another job, a moved one is not."""

import csv
import shutil

import pytest

from tests.helpers.other_models import save_model
from tests.helpers.runs import summary_of, train
from tests.helpers.steps import parts

RUN = ("model=hf", "model.dtype=float32", "data.max_users=8", "evaluation.max_users=4", "prompt.max_tokens=256")
RUN += ("trainer.max_steps=0", "trainer.loader_workers=0", "wandb.mode=disabled")


@pytest.mark.slow
def test_another_model_is_another_job_and_another_arm(tmp_path):
    made = parts("data.max_users=8")
    one, other = (save_model(name, made, tmp_path / name) for name in ("tied", "untied"))
    sweep = tmp_path / "sweep"

    def start(*overrides):
        return train("--multirun", *RUN, *overrides, f"output_dir={sweep}", cwd=tmp_path)

    first = start("history=none,fixed_count", f"model.path={one}")
    assert first.returncode == 0, first.stderr
    written = {
        job: (sweep / job / "summary.json").stat().st_mtime_ns for job in ("history-none", "history-fixed_count")
    }
    refused = start("history=none,fixed_count", f"model.path={other}")
    assert refused.returncode == 2 and "finished with other settings, data, model or version" in refused.stderr
    moved = shutil.move(one, tmp_path / "moved")
    again = start("history=none,fixed_count", f"model.path={moved}")
    assert again.returncode == 0, again.stderr
    assert {job: (sweep / job / "summary.json").stat().st_mtime_ns for job in written} == written

    both = train(
        "--multirun", *RUN, f"model.path={moved},{other}", "seed=0,1", f"output_dir={tmp_path}/two", cwd=tmp_path
    )
    assert both.returncode == 0, both.stderr
    with (tmp_path / "two" / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    models = {summary_of(job.parent)["identity"]["model"][:6] for job in (tmp_path / "two").glob("*/summary.json")}
    assert len(models) == 2 and [row["seeds"] for row in rows] == ["2", "2"]
    assert {row["arm"].rpartition("(")[2].rstrip(")") for row in rows} == models
