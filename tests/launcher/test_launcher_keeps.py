"""What a sweep finds in a job's folder: it goes on with the job's own run, starts in an empty folder, and otherwise
refuses, and never deletes anything."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from runs import FAST, composed, run_here, summary_of, train

import mlens
from hydra_plugins.mlens_launcher._ledger import CheckedJob, Job
from hydra_plugins.mlens_launcher.launcher import _refuse_other_run
from mlens.config import fingerprint, resolved
from mlens.errors import UserError

NAME = "history=none"
JOB = (*FAST, NAME)


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A sweep's folder with a job's finished run."""
    sweep = tmp_path_factory.mktemp("sweep")
    run_here(sweep / "run", *JOB)
    (sweep / "run").rename(sweep / NAME)
    return sweep


@pytest.fixture
def sweep(finished, tmp_path) -> Path:
    """A copy whose job was killed before the summary was written."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    (tmp_path / NAME / "summary.json").unlink()
    return tmp_path


def checked(*overrides: str, data: str = "data") -> CheckedJob:
    config = resolved(composed(*JOB, *overrides))
    return CheckedJob(Job(NAME, [*overrides], fingerprint(config, data)), config, data)


@pytest.mark.parametrize("overrides", [(), ("trainer.max_steps=9",), ("trainer.checkpoint.keep=3", "wandb.group=x")])
@pytest.mark.parametrize("listed", [True, False])
def test_an_unfinished_run_goes_on_with_what_a_resume_may_change_though_the_ledger_is_lost(sweep, overrides, listed):
    before = content(sweep)
    _refuse_other_run(sweep, checked(*overrides), checked().entry if listed else None)
    assert content(sweep) == before


@pytest.mark.parametrize("listed", [True, False])
def test_other_settings_are_refused_by_name_and_the_run_stays(sweep, listed):
    before = content(sweep)
    with pytest.raises(UserError) as refused:
        _refuse_other_run(sweep, checked("seed=1"), checked().entry if listed else None)
    told = str(refused.value)
    assert str(sweep / NAME) in told and "seed (was 0, now 1)" in told and "another output_dir" in told
    assert ("sweep.json doesn't list" in told) != listed
    assert content(sweep) == before


@pytest.mark.parametrize("changed", ["data", "version"])
def test_other_data_or_another_version_is_refused_and_the_run_stays(sweep, changed, monkeypatch):
    before, earlier = content(sweep), checked().entry
    if changed == "version":
        monkeypatch.setattr(mlens, "__version__", "9.9")
    now = checked(data="other" if changed == "data" else "data")
    with pytest.raises(UserError, match=r"other data, another model or another version.*another output_dir"):
        _refuse_other_run(sweep, now, earlier)
    assert content(sweep) == before


def test_a_folder_whose_run_was_killed_before_it_wrote_its_config_is_started_in(tmp_path):
    run, job = tmp_path / "run", checked()
    for name in (".hydra", "checkpoints", "training_logs"):
        (run / name).mkdir(parents=True)
    (run / ".lock").touch()
    (run / ".hydra" / ".config.yaml.new").write_text("half")
    _refuse_other_run(tmp_path, replace(job, entry=replace(job.entry, name="run")), None)
    assert run_here(run, *JOB)["training"]["step"] == 4


@pytest.mark.parametrize("file", ["notes.txt", "checkpoints/step_00000002/manifest.json", ".hydra/overrides.yaml"])
def test_other_files_are_refused_and_stay(tmp_path, file):
    path = tmp_path / NAME / file
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(UserError, match=f"{path.name}.*remove them, or give another output_dir"):
        _refuse_other_run(tmp_path, checked(), None)
    assert path.read_text() == "mine"


@pytest.mark.slow
def test_a_sweep_refuses_before_any_job_starts_and_resumes_what_its_lost_ledger_listed(sweep, finished, tmp_path):
    command = ("--multirun", "history=none,fixed_count", *FAST, f"output_dir={sweep}")
    before = content(sweep)
    refused = train(*command, "seed=1", cwd=tmp_path)
    (told,) = [line for line in refused.stderr.splitlines() if line.startswith("error: ")]
    assert refused.returncode == 2 and str(sweep / NAME) in told and "seed (was 0, now 1)" in told
    assert {name: content(sweep).get(name) for name in before} == before and not (sweep / "logs").exists()

    done = train(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "resumed after step 4" in (sweep / "logs" / f"{NAME}.log").read_text()
    states = {job["name"]: job["state"] for job in json.loads((sweep / "sweep.json").read_text())["jobs"]}
    assert states == {NAME: "finished", "history=fixed_count": "finished"}
    assert summary_of(sweep / NAME)["metrics"] == summary_of(finished / NAME)["metrics"]
