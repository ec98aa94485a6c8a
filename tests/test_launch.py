"""How train.py is started: launchers and their arguments."""

import re

import pytest
from omegaconf import OmegaConf

from mlens.config import check_config
from mlens.errors import JobFailed, UserError
from mlens.launch import drop_local_rank, register_resolvers, start
from tests.helpers.runs import CONF, FAST, checked, composed, train_module


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


@pytest.mark.parametrize(
    ("environment", "mode"),
    [
        ({}, "offline"),
        ({"WANDB_MODE": "online"}, "online"),
        ({"WANDB_MODE": "dryrun"}, "offline"),
        ({"WANDB_MODE": "online", "WANDB_DISABLED": "true"}, "disabled"),
        ({"WANDB_DISABLED": "false"}, "offline"),
    ],
)
def test_the_environment_chooses_the_tracking_unless_an_override_does(environment, mode, monkeypatch):
    for name in ("WANDB_MODE", "WANDB_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert checked().wandb.mode == mode
    assert checked("wandb.mode=disabled").wandb.mode == "disabled"
    assert check_config(composed()).config["wandb"]["mode"] == mode  # what is saved with a run says what was done


def test_a_mode_of_the_environment_that_is_none_is_refused(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "sometimes")
    with pytest.raises(UserError, match=r"wandb\.mode must be offline, online or disabled, not sometimes"):
        checked()


@pytest.mark.parametrize("raised", [ValueError("of the program"), KeyError("x")])
def test_other_errors_pass(raised, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py"])

    def main():
        raise raised

    with pytest.raises(type(raised)):
        start(main)


@pytest.mark.parametrize(
    ("raised", "code"),
    [(UserError("of the user"), 2), (JobFailed("job x: too many open files"), 1), (KeyboardInterrupt(), 130)],
)
def test_what_a_sweep_refuses_a_failed_job_and_ctrl_c_are_one_line(raised, code, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["train.py"])

    def main():
        raise raised

    with pytest.raises(SystemExit) as ended:
        start(main)
    said = capsys.readouterr().err
    assert ended.value.code == code and said.count("\n") == 1
    assert said.startswith(f"error: {raised}" if code != 130 else "stopped: ")


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["hydra.sweep.subdir=job_${hydra.job.num}"], "hydra.sweep.subdir can't be set"),
        (["hydra.sweep.dir=x"], "hydra.sweep.dir has no effect here: write output_dir=x"),
        (["output_dir=x_${hydra.job.num}"], "output_dir: .*hydra.job.num"),
        (["output_dir=${oc.env:NOT_SET}"], "output_dir: .*NOT_SET"),
        (["hydra/launcher=basic"], "hydra/launcher=basic .* default launcher"),
        (["hydra/launcher=joblib"], "hydra/launcher=joblib .* default launcher"),
        (["--cfg", "job"], "--cfg shows the config of one job: leave out --multirun"),
    ],
)
def test_what_a_sweep_refuses_of_hydras_own_settings(arguments, said, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    command = ["train.py", f"--config-path={CONF}", "--multirun", "history=none,random", *FAST, *arguments]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit) as ended:
        start(train_module().main)
    line = capsys.readouterr().err
    assert ended.value.code == 2 and line.count("\n") == 1 and re.search(f"error: {said}", line)


@pytest.mark.parametrize(
    ("content", "chosen"),
    [
        ("defaults: [config, override /hydra/launcher: basic, _self_]", "basic"),
        ("defaults: [config, _self_]\nhydra: {launcher: {_target_: mine.Launcher}}", "mine.Launcher"),
    ],
)
def test_a_launcher_of_a_config_of_ones_own_is_refused_before_any_job(content, chosen, monkeypatch, capsys, tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "mine.yaml").write_text(f"{content}\n")
    monkeypatch.chdir(tmp_path)
    own = [f"--config-dir={tmp_path / 'own'}", "--config-name=mine", "--multirun", "history=none,random"]
    monkeypatch.setattr("sys.argv", ["train.py", f"--config-path={CONF}", *own, *FAST])
    module = train_module()
    monkeypatch.setattr(module, "stoppable", lambda: pytest.fail("a job was started"))
    with pytest.raises(SystemExit) as ended:
        start(module.main)
    line = capsys.readouterr().err
    assert ended.value.code == 2 and line.count("\n") == 1
    assert line.startswith(f"error: hydra/launcher={chosen} can't start the jobs of a sweep: leave it out.")
    assert [path.name for path in tmp_path.iterdir()] == ["own"]
