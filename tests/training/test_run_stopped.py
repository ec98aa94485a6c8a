"""A signal at any phase of a run: it finishes, or exits with code 75 and can be resumed with the same result."""

import importlib
import json
import os
import signal
import subprocess
import sys
from itertools import product

import pytest

from mlens.errors import exit_on_user_error
from tests.helpers.runs import FAST, ROOT, child_environment, command, composed, run_here, summary_of, train_here

SCRIPT = ROOT / "tests" / "helpers" / "signalled_run.py"
BASE = ("model=tiny_base", "model.base.lines=[4]", "model.base.steps=4")
# The function that a run calls in this phase, and whether the run still finishes.
PHASES = {
    "data": ("mlens.data.sources", "load_table", False),
    "base model": ("mlens.training.base_model", "plan_excerpts", False),
    "detailed log": ("mlens.training.describe", "describe_run", False),
    "export": ("mlens.training.finish", "write_exported", False),
    "baselines": ("mlens.training.finish", "measure_baselines", False),
    "card": ("mlens.training.finish", "model_card", True),
    "table": ("mlens.training.finish", "print_table", True),
}
NUMBERS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
SHORT = (("baselines", signal.SIGTERM),)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict:
    return run_here(tmp_path_factory.mktemp("undisturbed") / "run", *FAST, *BASE)


@pytest.mark.parametrize(
    ("phase", "number"),
    [pytest.param(*case, marks=() if case in SHORT else pytest.mark.slow) for case in product(PHASES, NUMBERS)],
)
def test_a_signal_in_any_phase(phase, number, undisturbed, tmp_path, monkeypatch, capsys):
    module, function, finishes = PHASES[phase]
    original, folder = getattr(importlib.import_module(module), function), tmp_path / "run"

    def signalled(*arguments, **named):
        os.kill(os.getpid(), number)
        return original(*arguments, **named)

    with monkeypatch.context() as patched:
        patched.setattr(f"{module}.{function}", signalled)
        if finishes:
            run_here(folder, *FAST, *BASE)
        else:
            with pytest.raises(SystemExit) as ended, exit_on_user_error():
                train_here(composed(*FAST, *BASE, f"output_dir={folder}"))
            assert ended.value.code == 75 and not (folder / "summary.json").exists()
            assert capsys.readouterr().err.count("stopped: asked to stop") == 1
    if not finishes:
        begun = (folder / ".hydra" / "config.yaml").exists()
        run_here(folder, *FAST, *BASE, f"resume={str(begun).lower()}")
    assert summary_of(folder)["metrics"] == undisturbed["metrics"]
    assert summary_of(folder)["baselines"] == undisturbed["baselines"]


@pytest.mark.slow
@pytest.mark.parametrize("rank", ["", ":0"], ids=["both ranks", "rank 0"])
@pytest.mark.parametrize("phase", ["export", "baselines", "card", "table"])
def test_a_signal_in_the_last_phases_of_two_ranks(phase, rank, tmp_path):
    module, function, finishes = PHASES[phase]
    more = {"SIGNALLED": f"{module}:{function}:SIGTERM{rank}", "MARK": str(tmp_path / "mark")}
    overrides = (str(SCRIPT), *FAST, f"output_dir={tmp_path}/run")
    first = command(*overrides, ranks=2, **more)
    assert (tmp_path / "mark.0").exists() and (first.returncode == 0) == finishes == (
        tmp_path / "run" / "summary.json"
    ).exists()
    if not finishes:
        assert first.stderr.count("stopped: asked to stop") == 1 and "exitcode  : 75" in first.stderr
        assert command(*overrides, "resume=true", ranks=2, **more).returncode == 0
    uninterrupted = command(str(ROOT / "train.py"), *FAST, f"output_dir={tmp_path}/uninterrupted", ranks=2)
    assert uninterrupted.returncode == 0
    assert summary_of(tmp_path / "run")["metrics"] == summary_of(tmp_path / "uninterrupted")["metrics"]


@pytest.mark.slow
@pytest.mark.parametrize("number", ["SIGTERM", "SIGUSR1", "SIGHUP"])
@pytest.mark.parametrize("phase", ["tokenizer", "baselines", "table"])
def test_a_job_of_a_sweep_that_a_signal_stops_in_any_phase_is_finished_by_the_sweep(phase, number, tmp_path):
    module, function, _ = PHASES.get(phase, ("mlens.model.load", "load_tokenizer", False))
    more = {"SIGNALLED": f"{module}:{function}:{number}", "MARK": str(tmp_path / "mark"), "TMPDIR": str(tmp_path)}
    result = command(str(SCRIPT), "--multirun", "history=none", *FAST, f"output_dir={tmp_path}/s", **more)
    assert result.returncode == 0, result.stderr
    (job,) = json.loads((tmp_path / "s" / "sweep.json").read_text())["jobs"]
    assert job["state"] == "finished" and (tmp_path / "mark.0").exists()
    assert ("stopped  after" in result.stderr) == (phase != "table")
    assert not list(tmp_path.glob("torchelastic_*"))


@pytest.mark.slow
def test_a_closed_terminal_stops_a_run_except_under_nohup(tmp_path):
    for name, code in (("terminal", 75), ("nohup", 0)):
        more = {"SIGNALLED": "mlens.training.loop:finish_step:SIGHUP", "MARK": str(tmp_path / name)}
        program = [sys.executable, str(SCRIPT), *FAST, f"output_dir={tmp_path}/{name}_run"]
        ended = subprocess.run(
            program,
            env=child_environment(**more),
            capture_output=True,
            preexec_fn=lambda: name == "nohup" and signal.signal(signal.SIGHUP, signal.SIG_IGN),  # noqa: B023
        )
        assert ended.returncode == code and (tmp_path / f"{name}.0").exists()
