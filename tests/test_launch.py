"""How train.py is started: launchers and their arguments."""

import pytest
from omegaconf import OmegaConf

from mlens.errors import JobFailed, UserError
from mlens.launch import _one_line, drop_local_rank, register_resolvers, start


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


@pytest.mark.parametrize("raised", [ValueError("of the program"), KeyError("x")])
def test_other_errors_pass(raised, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py"])

    def main():
        raise raised

    with pytest.raises(type(raised)):
        start(main)


@pytest.mark.parametrize(
    ("raised", "code"), [(UserError("of the user"), 2), (JobFailed("of a job"), 1), (KeyboardInterrupt(), 130)]
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
