"""How train.py is started: sweeps, launchers and their arguments."""

import pytest
from hydra.types import RunMode
from omegaconf import OmegaConf
from runs import FAST, composed, hydra_config, summary_of, train

from mlens.errors import UserError
from mlens.launch import _one_line, drop_local_rank, refuse_sweep_under_torchrun, register_resolvers, start


@pytest.mark.slow
def test_a_sweep_makes_a_folder_for_each_job(tmp_path):
    jobs = ["--multirun", "history=none,fixed_count"]
    result = train(*jobs, *FAST, "trainer.max_steps=2", f"output_dir={tmp_path}/sweep", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    folders = sorted(path for path in (tmp_path / "sweep").iterdir() if path.is_dir())
    assert len(folders) == 2
    for folder, history in zip(folders, ("none", "fixed_count"), strict=True):
        assert f"history={history}" in folder.name and "output_dir" not in folder.name
        assert f"history={history}" in summary_of(folder)["overrides"]
    assert [path.name for path in tmp_path.iterdir()] == ["sweep"]
    shown = [line for line in result.stdout.splitlines() if line.endswith("summary.json")]
    assert shown == [str(folder / "summary.json") for folder in folders]


def test_a_sweep_under_torchrun_is_refused_with_the_command_to_use(tmp_path):
    result = train("--multirun", "history=none,random", "seed=3", ranks=2, cwd=tmp_path)
    assert result.returncode != 0
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert "python train.py --multirun" in line and "torchrun" in line
    assert not [path for path in tmp_path.rglob("*") if path.name in (".hydra", "checkpoints", "summary.json")]


def test_a_sweep_is_refused_under_any_launcher_and_only_there(monkeypatch):
    for name in ("TORCHELASTIC_RUN_ID", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    composed("history=none")
    job = hydra_config()
    sweep = OmegaConf.merge(job, {"mode": RunMode.MULTIRUN})
    refuse_sweep_under_torchrun(sweep)
    for name, value in (("WORLD_SIZE", "2"), ("TORCHELASTIC_RUN_ID", "none")):
        with monkeypatch.context() as launched:
            launched.setenv(name, value)
            refuse_sweep_under_torchrun(job)
            with pytest.raises(UserError, match="history=none"):
                refuse_sweep_under_torchrun(sweep)


@pytest.mark.parametrize("flag", ["--local_rank=1", "--local-rank=0"])
def test_the_deepspeed_launchers_rank_is_dropped_and_nothing_else(flag):
    arguments = ["train.py", flag, "debug=fast", "wandb.name=--local_rank"]
    assert drop_local_rank(arguments) == ["train.py", "debug=fast", "wandb.name=--local_rank"]


def test_first_is_the_first_that_is_not_null():
    register_resolvers()
    config = OmegaConf.create(
        {"a": None, "b": "x", "c": "${first:${a},${b}}", "d": "${first:${b},${a}}", "e": "${first:null}"}
    )
    assert (config.c, config.d, config.e) == ("x", "x", None)


def test_a_hydra_message_becomes_one_line_without_advice_that_would_be_refused():
    message = "Could not override 'a.b'.\nTo append to your config use +a.b=1\n\nConfig search path:\n\tsomewhere"
    error = ValueError(message)
    error.__cause__ = KeyError("Key 'b' is not in struct")
    line = _one_line(error)
    assert "\n" not in line and "+a.b" not in line and "somewhere" not in line
    assert line.startswith("Could not override 'a.b'.") and "is not in struct" in line


@pytest.mark.parametrize("raised", [ValueError("of the program"), UserError("told elsewhere"), KeyError("x")])
def test_other_errors_pass(raised, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py"])

    def main():
        raise raised

    with pytest.raises(type(raised)):
        start(main)
