"""What a sweep finds in a job's folder: it goes on with the job's own run, starts in an empty folder, and otherwise
refuses, and never deletes anything."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from hydra_plugins.mlens_launcher._ledger import CheckedJob, Job
from hydra_plugins.mlens_launcher.launcher import _refuse_other_run
from mlens.config import check_config
from mlens.errors import UserError
from mlens.identity import Identity, read_identity
from tests.helpers.runs import FAST, IDENTITY, composed, run_here, summary_of, train

NAME = "history-none"
JOB = (*FAST, "history=none")


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


def checked(identity: Identity | None, *overrides: str) -> CheckedJob:
    settings = check_config(composed(*JOB, *overrides))
    assert identity is not None
    return CheckedJob(Job(NAME, [*overrides], identity.fingerprint(settings)), settings.config, identity)


@pytest.mark.parametrize("overrides", [(), ("trainer.max_steps=9",), ("trainer.checkpoint.keep=3", "wandb.group=x")])
def test_an_unfinished_run_goes_on_with_what_a_resume_may_change(sweep, overrides):
    before = content(sweep)
    _refuse_other_run(sweep, checked(read_identity(sweep / NAME), *overrides))
    assert content(sweep) == before


def test_other_settings_are_refused_by_name_and_the_run_stays(sweep):
    before = content(sweep)
    with pytest.raises(UserError) as refused:
        _refuse_other_run(sweep, checked(read_identity(sweep / NAME), "seed=1"))
    told = str(refused.value)
    assert str(sweep / NAME) in told and "seed (was 0, now 1)" in told and "another output_dir" in told
    assert content(sweep) == before


@pytest.mark.parametrize("changed", ["data", "model", "version", None])
def test_other_data_another_model_or_version_are_refused_and_the_run_stays(sweep, changed):
    now = read_identity(sweep / NAME)
    if changed is None:  # a run of before runs noted what they are
        (sweep / NAME / "identity.json").unlink()
    else:
        now = replace(now, **{changed: "other"})
    before = content(sweep)
    with pytest.raises(UserError, match=r"other data, another model or another version.*another output_dir"):
        _refuse_other_run(sweep, checked(now))
    assert content(sweep) == before


def test_a_folder_whose_run_was_killed_before_it_wrote_its_config_is_started_in(tmp_path):
    run, job = tmp_path / "run", checked(IDENTITY)
    for name in (".hydra", "checkpoints", "training_logs"):
        (run / name).mkdir(parents=True)
    (run / ".lock").touch()
    (run / ".hydra" / ".config.yaml.new").write_text("half")
    (run / ".hydra" / "overrides.yaml").write_text("[]")
    _refuse_other_run(tmp_path, replace(job, entry=replace(job.entry, name="run")))
    assert run_here(run, *JOB)["training"]["step"] == 4


@pytest.mark.parametrize("file", ["notes.txt", "checkpoints/step_00000002/manifest.json"])
def test_other_files_are_refused_and_stay(tmp_path, file):
    path = tmp_path / NAME / file
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(UserError, match=f"{path.name}.*remove them, or give another output_dir"):
        _refuse_other_run(tmp_path, checked(IDENTITY))
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
    assert states == {NAME: "finished", "history-fixed_count": "finished"}
    assert summary_of(sweep / NAME)["metrics"] == summary_of(finished / NAME)["metrics"]
