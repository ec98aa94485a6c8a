"""A run that somebody else made is data: no command imports what its config names, unless it is trusted."""

import json
import shutil
import sys

import polars as pl
import pytest
import yaml

from mlens.__main__ import main
from mlens.compose import run_config
from mlens.errors import UserError, exit_on_user_error
from mlens.trust import refuse_foreign
from tests.helpers.predicting_runs import SHORT
from tests.helpers.runs import composed, run_here, train_here

EVIL = """
import pathlib
from dataclasses import dataclass
from mlens.history.fixed_count import FixedCount
pathlib.Path({mark!r}).touch()

@dataclass(frozen=True)
class Evil(FixedCount):
    count: int = 2
"""


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    run_here(folder, *SHORT, "history=fixed_count", "history.count=2", "trainer.max_steps=1")
    return folder


@pytest.fixture
def run(pristine, tmp_path, monkeypatch):
    """A copy of the run; and, in the working directory, a module that leaves a mark when it is imported."""
    planted = tmp_path / "planted"
    planted.mkdir()
    (planted / "evil.py").write_text(EVIL.format(mark=str(tmp_path / "mark")))
    monkeypatch.chdir(planted)
    monkeypatch.syspath_prepend(planted)
    yield shutil.copytree(pristine, tmp_path / "run", symlinks=True)
    sys.modules.pop("evil", None)


def change(run, **nodes):
    """Set dotted keys of the run's saved config, and of what its model says of itself."""
    for file, load, dump in (
        (run / ".hydra" / "config.yaml", yaml.safe_load, yaml.safe_dump),
        (run / "model" / "mlens.json", json.loads, json.dumps),
    ):
        content = load(file.read_text())
        for key, value in nodes.items():
            *parents, name = key.split("__")
            place = content
            for parent in parents:
                place = place.get(parent) if isinstance(place, dict) else None
            if place is not None:
                place[name] = value
        file.write_text(dump(content))


def started(monkeypatch, capsys, command, *words):
    """Exit code, stdout and stderr of `mlens COMMAND WORDS`, in this process."""
    monkeypatch.setattr(sys, "argv", ["mlens", command, *map(str, words)])
    code = 0
    try:
        main()
    except SystemExit as ended:
        code = ended.code
    return code, *capsys.readouterr()


def words_of(command, run, tmp_path):
    """What follows `mlens COMMAND`: of a command that opens the run."""
    user = pl.read_parquet(run / "predictions" / "test.parquet")["user"][0]
    if command == "show":
        return run, f"user={user}"
    if command == "evaluate":
        return run, "prompt.max_tokens=250"
    if command == "predict":
        for name, text in (("history.csv", "title,rating\nHeat (1995),4.5\n"), ("movies.csv", "title\nRonin (1998)\n")):
            (tmp_path / name).write_text(text)
        return run, "--history", tmp_path / "history.csv", "--movies", tmp_path / "movies.csv"
    return (run,)


MAKING = ("show", "evaluate", "predict")


@pytest.mark.parametrize("command", MAKING)
def test_a_command_that_makes_what_a_run_names_refuses_foreign_classes(command, run, tmp_path, monkeypatch, capsys):
    words = words_of(command, run, tmp_path)
    change(run, history___target_="evil.Evil")
    code, _, said = started(monkeypatch, capsys, command, *words)
    assert code == 2 and said.count("\n") == 1 and said.startswith("error: ")
    assert "history._target_=evil.Evil is not from mlens.history.*" in said and "--trust" in said
    assert not (tmp_path / "mark").exists() and "evil" not in sys.modules


@pytest.mark.parametrize("command", MAKING)
def test_a_run_that_is_trusted_uses_its_own_strategy(command, run, tmp_path, monkeypatch, capsys):
    words = words_of(command, run, tmp_path)
    change(run, history___target_="evil.Evil")
    code, _, said = started(monkeypatch, capsys, command, *words, "--trust")
    assert code == 0, said
    assert (tmp_path / "mark").exists()


@pytest.mark.parametrize("command", ["compare", "runs"])
def test_a_command_that_reads_a_run_imports_nothing_that_it_names(command, run, tmp_path, monkeypatch, capsys):
    change(run, history___target_="evil.Evil", dataset___target_="evil.Evil", data___target_="evil.Evil")
    code, told, _ = started(monkeypatch, capsys, command, *words_of(command, run, tmp_path))
    assert code == 0 and "evil" in told
    assert not (tmp_path / "mark").exists() and "evil" not in sys.modules


@pytest.mark.parametrize("node", ["history", "data", "dataset"])
def test_a_resume_compares_a_saved_config_and_makes_nothing_of_it(node, run, tmp_path, capsys):
    (run / "summary.json").unlink()
    change(run, **{f"{node}___target_": "evil.Evil"})
    config = composed(*SHORT, "history=fixed_count", "history.count=2", "trainer.max_steps=1", f"output_dir={run}")
    config.resume = True
    with pytest.raises(SystemExit) as ended, exit_on_user_error():
        train_here(config)
    said = capsys.readouterr().err
    assert ended.value.code == 2 and f"{node}._target_ (was evil.Evil" in said
    assert not (tmp_path / "mark").exists() and "evil" not in sys.modules


CHANGES = {
    "data": {"data___target_": "evil.Evil"},
    "dataset": {"dataset___target_": "evil.Evil"},
    "packing": {"packing___target_": "evil.Evil"},
    "model": {"model___target_": "evil.Evil"},
    "peft": {"peft___target_": "evil.Evil"},
    "nested": {"trainer__early_stopping": {"_target_": "evil.Evil"}},
    "in a list": {"model__base": {"lines": [{"_target_": "evil.Evil"}]}},
    "beside": {"x": {"_target_": "evil.Evil"}},
    "at the top": {"_target_": "evil.Evil"},
    "by way of a module of mlens": {"history___target_": "mlens.history.random.evil.Evil"},
    "a program": {"dataset___target_": "os.system"},
    "no text": {"data___target_": ["evil.Evil"]},
}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("case", CHANGES)
def test_no_node_of_a_run_may_name_a_foreign_class(case, run, tmp_path):
    change(run, **CHANGES[case])
    with pytest.raises(UserError, match="_target_"):
        run_config(run, [], ())
    assert not (tmp_path / "mark").exists() and "evil" not in sys.modules


@pytest.mark.parametrize("target", ["evil.Evil", "mlens.engine.engine.Engine"])
def test_a_node_of_one_form_is_made_by_nothing_else(target, run, tmp_path, monkeypatch, capsys):
    change(run, deepspeed___target_=target)
    code, _, said = started(monkeypatch, capsys, "show", run, "user=1", "--trust")
    assert code == 2 and said.startswith("error: deepspeed._target_ must be mlens.engine.engine.make_engine")
    assert not (tmp_path / "mark").exists()


def test_a_models_own_code_is_run_for_nobody_elses_run(run):
    change(run, model__trust_remote_code=True)
    with pytest.raises(UserError, match=r"model\.trust_remote_code runs code .*--trust"):
        run_config(run, [], ())


def test_what_the_user_gives_in_place_of_the_runs_is_the_users(run):
    change(run, history___target_="evil.Evil")
    found = run_config(run, ["history=none"], ("history",))
    assert found.history._target_ == "mlens.history.none.NoHistory"
    refuse_foreign({"history": {"_target_": "mine.Strategy"}}, ["history._target_"])
    with pytest.raises(UserError):
        refuse_foreign({"history": {"_target_": "mine.Strategy"}}, ["history.count", "hist"])


def test_a_reference_in_a_runs_config_is_not_looked_up(run, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_marker")
    for text in ("${oc.env:HF_TOKEN}", "${oc.${x}:HF_TOKEN}"):
        change(run, x="env", data__path=text)
        with pytest.raises(UserError, match="refers to another value") as told:
            run_config(run, [], ())
        assert "marker" not in str(told.value)
