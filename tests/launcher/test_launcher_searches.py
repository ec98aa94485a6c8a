"""Sweeps in several batches: in parts, and those of a sampler, which may propose a point twice."""

import json
from pathlib import Path

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hypothesis import given
from hypothesis import strategies as st

from hydra_plugins.mlens_launcher import launcher
from hydra_plugins.mlens_launcher._ledger import FAILED, FINISHED, Ledger, job_names
from mlens.errors import UserError
from mlens.plan.jobs import plan_request
from tests.helpers.runs import CONF, FAST, checked, train_command_here


@pytest.fixture
def run(monkeypatch):
    """The names of the jobs that were run, in order. Each ends with the RMSE count / 100, and 13 fails."""
    names: list[str] = []

    def end_at_once(ledger: Ledger, todo: list[str], *_) -> None:
        for name in todo:
            names.append(name)
            job = ledger.jobs[name]
            count = next((o.partition("=")[2] for o in job.overrides if o.startswith("history.count=")), "100")
            if count == "13":
                ledger.set(name, state=FAILED, exit_code=1, error="error: no room")
                continue
            (ledger.folder / name).mkdir()
            summary = {"fingerprint": job.fingerprint, "metrics": {"val": {"rmse": int(count) / 100}}}
            (ledger.folder / name / "summary.json").write_text(json.dumps(summary))
            ledger.set(name, state=FINISHED)

    Plugins.instance()  # executes the launcher's module, for the first time it is called
    monkeypatch.setattr(launcher, "run_local", end_at_once)
    monkeypatch.setattr(launcher.MlensLauncher, "_report", lambda *_: None)
    return names


def sweep(folder: Path, *words: str):
    return train_command_here("--multirun", *FAST, *words, f"output_dir={folder}/sweep", cwd=folder)


def test_a_value_that_is_given_twice_is_one_job(run, tmp_path):
    assert sweep(tmp_path, "history=none,random,none").returncode == 0
    assert run == ["history-none", "history-random"]


@pytest.mark.slow
def test_a_sweep_in_batches_has_the_names_of_all_its_overrides(run, tmp_path):
    """In a batch of one seed, the seed doesn't differ."""
    words = ("seed=0,1", "history=none,random", "hydra.sweeper.max_batch_size=2")
    assert sweep(tmp_path, *words).returncode == 0
    assert run == [f"seed-{seed}+history-{history}" for seed in (0, 1) for history in ("none", "random")]
    assert sweep(tmp_path, *words).returncode == 0 and len(run) == 4


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("123"), st.just("z")), min_size=1))
def test_two_jobs_share_a_name_if_and_only_if_they_are_equal(points):
    batch = [[f"x={x}", f"y={y}", f"z={z}"] for x, y, z in points]
    names = job_names(batch)
    assert len({*names}) == len({*points}) == len({*zip(names, points, strict=True)})
    # Whatever the batches, where what all share is known.
    one_by_one = [name for job in batch for name in job_names([job], shared=["z=z"])]
    assert one_by_one == job_names(batch, shared=["z=z"])


def test_the_recipe_searches_through_values_that_a_run_accepts():
    recipe = yaml.safe_load((CONF / "experiment" / "optuna.yaml").read_text())
    space = recipe["hydra"]["sweeper"]["params"]
    parsed = OverridesParser.create().parse_overrides([f"{key}={value}" for key, value in space.items()])
    choices = [f"{key}={value}" for default in recipe["defaults"] for key, value in default.items()]
    history = [text.removeprefix("override /") for text in choices if "hydra" not in text]
    for override in parsed:
        assert override.is_sweep_override()
        value = override.value()
        for each in (value.start, value.end) if override.is_interval_sweep() else override.sweep_iterator():
            checked(*history, f"{override.get_key_element()}={each}")


@pytest.mark.slow
class TestOptuna:
    """The recipe conf/experiment/optuna.yaml."""

    @pytest.fixture(autouse=True)
    def optuna(self):
        pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="needs the extra optuna")

    def search(self, folder: Path, *words: str):
        return train_command_here(*FAST, "+experiment=optuna", *words, f"output_dir={folder}/sweep", cwd=folder)

    def found(self, folder: Path) -> dict:
        return yaml.safe_load((folder / "sweep" / "optimization_results.yaml").read_text())

    def test_a_point_that_is_proposed_twice_is_run_once(self, run, tmp_path):
        words = ("history.count=2,3", "trainer.learning_rate=0.01", "hydra.sweeper.n_trials=6")
        done = self.search(tmp_path, *words, "hydra.sweeper.n_jobs=3")
        assert done.returncode == 0, done.stderr
        assert {*run} == {"history.count-2", "history.count-3"} and len(run) == 2
        assert self.found(tmp_path) == {"name": "optuna", "best_params": {"history.count": 2}, "best_value": 0.02}

    def test_the_same_command_does_no_job_again_and_another_search_continues_beside(self, run, tmp_path):
        for trials, jobs in ((3, 3), (3, 3), (5, 5)):
            assert self.search(tmp_path, f"hydra.sweeper.n_trials={trials}").returncode == 0
            assert len(run) == len({*run}) == jobs
        best = self.found(tmp_path)["best_params"]
        assert best["history.count"] in (5, 10, 20, 50) and 0.002 <= best["trainer.learning_rate"] <= 0.1

    def test_a_failed_job_ends_the_search_or_is_passed_over(self, run, tmp_path):
        words = ("history.count=13,2", "trainer.learning_rate=0.01", "hydra.sweeper.n_trials=6")
        done = self.search(tmp_path, *words)
        assert done.returncode == 1 and "error: job history.count-13 failed" in done.stderr.splitlines()[-1]
        done = self.search(tmp_path, *words, "hydra.sweeper.max_failure_rate=1")
        assert done.returncode == 0, done.stderr
        assert self.found(tmp_path)["best_params"] == {"history.count": 2}

    def test_without_validation_targets_it_is_refused(self, run, tmp_path, monkeypatch):
        monkeypatch.setattr(json, "loads", lambda text, loads=json.loads: loads(text.replace('"val"', '"test"')))
        done = self.search(tmp_path, "hydra.sweeper.n_trials=1")
        assert done.returncode == 2 and "has no validation targets" in done.stderr.splitlines()[-1]


def test_without_the_package_what_installs_it_is_said(monkeypatch, tmp_path):
    from importlib.util import find_spec

    if find_spec("hydra_plugins.hydra_optuna_sweeper"):
        pytest.skip("the extra optuna is installed")
    done = train_command_here("--multirun", "hydra/sweeper=optuna", "seed=0,1", cwd=tmp_path)
    assert done.returncode == 2 and "error: hydra/sweeper=optuna needs the package" in done.stderr
    with pytest.raises(UserError, match="needs the package hydra-optuna-sweeper"):
        plan_request(["+experiment=optuna"], multirun=False)
