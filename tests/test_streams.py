"""Standard output and error that are closed, full, or read by nobody: a run goes on, a result that is lost is told."""

import json
import os
import shlex
import signal
import subprocess
import sys

import polars as pl
import pytest

from mlens.errors import READER_GONE
from mlens.launch import start
from tests.helpers.runs import ROOT, child_environment, summary_of

SCRIPT = """
import os, sys, warnings
from mlens.errors import UserError, exit_on_user_error
result, file, ends = sys.argv[1] == "result", sys.argv[2], sys.argv[3]
with exit_on_user_error(result_on_stdout=result):
    with open(file, "w") as written:
        print("first line", flush=ends == "flushed")
        print("a message", file=sys.stderr)
        warnings.warn("another")
        print("x" * 100_000)
        os.write(written.fileno(), b"the work")
    if ends == "refused":
        raise UserError("no such film")
"""
BROKEN = {
    "closed": "{} >&-",
    "full": "{} >/dev/full",
    "no reader": "{} | true",
    "read for a line": "{} | head -1 >/dev/null",
    "error closed": "{} 2>&- >/dev/null",
    "error full": "{} 2>/dev/full >/dev/null",
    "both closed": "{} >&- 2>&-",
    "all closed": "{} <&- >&- 2>&-",
    "both full": "{} >/dev/full 2>&1",
}
RESULT_LOST = {"closed", "full", "both closed", "all closed", "both full"}


def shell(pattern, *words, **more):
    """The exit code of the command `words` within a line of bash, and what is left of standard error."""
    line = f"set -o pipefail; {pattern.format(shlex.join(map(str, words)))}"
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=ROOT,
        env=child_environment(PYTHONPATH=str(ROOT), **more),
        stderr=subprocess.PIPE,
        text=True,
        timeout=300,
    )
    return done.returncode, done.stderr


@pytest.mark.sampled(5)
@pytest.mark.parametrize("ends", ["", "flushed"])
@pytest.mark.parametrize("how", BROKEN)
def test_messages_that_are_lost_change_nothing(how, ends, tmp_path):
    file = tmp_path / "file"
    code, said = shell(BROKEN[how], sys.executable, "-c", SCRIPT, "files", file, ends)
    assert code == 0 and file.read_text() == "the work"
    assert "error" not in said.lower()


@pytest.mark.sampled(5)
@pytest.mark.parametrize("ends", ["", "flushed"])
@pytest.mark.parametrize("how", BROKEN)
def test_a_result_that_is_lost_is_one_line_and_no_success(how, ends, tmp_path):
    code, said = shell(BROKEN[how], sys.executable, "-c", SCRIPT, "result", tmp_path / "file", ends)
    said = [line for line in said.splitlines() if line.startswith("error")]
    if how in RESULT_LOST:
        assert code == 2
        assert all(line.startswith("error: standard output: ") for line in said)
        assert len(said) == (how in ("closed", "full"))
    else:
        assert code == (READER_GONE if how in ("no reader", "read for a line") else 0) and not said
    assert READER_GONE == 128 + signal.SIGPIPE


@pytest.mark.parametrize("how", BROKEN)
def test_a_mistake_keeps_its_exit_code(how, tmp_path):
    code, _ = shell(BROKEN[how], sys.executable, "-c", SCRIPT, "files", tmp_path / "file", "refused")
    assert code == 2


def test_streams_that_a_caller_has_replaced_are_left_to_it(capsys):
    start(lambda: print("printed"))
    assert capsys.readouterr().out == "printed\n"


FAST = ("debug=fast", "trainer.max_steps=2", "data.max_users=8")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "run"
    train = (sys.executable, ROOT / "train.py", *FAST, f"output_dir={run}")
    assert shell("{} >/dev/null 2>/dev/null", *train) == (0, "")
    return run


@pytest.mark.slow
@pytest.mark.parametrize("how", ["closed", "full", "read for a line", "error closed", "error full", "all closed"])
def test_a_run_is_for_its_files(how, undisturbed, tmp_path):
    code, said = shell(BROKEN[how], sys.executable, ROOT / "train.py", *FAST, f"output_dir={tmp_path / 'run'}")
    assert code == 0, said
    assert summary_of(tmp_path / "run")["metrics"] == summary_of(undisturbed)["metrics"]
    names = [{str(p.relative_to(run)) for p in run.rglob("*")} for run in (undisturbed, tmp_path / "run")]
    assert names[0] == names[1]
    lines = (tmp_path / "run" / "training_logs" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == len([json.loads(line) for line in lines]) > 2


@pytest.mark.slow
@pytest.mark.parametrize("how", ["closed", "both full", "error closed", "read for a line"])
def test_a_sweep_is_for_its_files(how, tmp_path):
    words = ("--multirun", *FAST, "history=none,all_previous", f"output_dir={tmp_path}")
    code, said = shell(BROKEN[how], sys.executable, ROOT / "train.py", *words)
    assert code == 0, said
    assert (tmp_path / "report.html").is_file()
    assert {job["state"] for job in json.loads((tmp_path / "sweep.json").read_text())["jobs"]} == {"finished"}


@pytest.mark.slow
@pytest.mark.parametrize("command", ["show", "runs", "predict", "comparison"])
def test_commands_tell_a_result_that_is_lost(command, undisturbed, tmp_path):
    user = pl.read_parquet(undisturbed / "predictions" / "test.parquet")["user"][0]
    (tmp_path / "history.csv").write_text("title,rating\nHeat (1995),4.5\n")
    (tmp_path / "movies.csv").write_text("title\n" + "".join(f"Film {i} (1998)\n" for i in range(50)))
    given = ("--history", tmp_path / "history.csv", "--movies", tmp_path / "movies.csv")
    own = {
        "show": (f"user={user}", "--all"),
        "predict": (*given, "--top", "50"),
        "comparison": ("--output", tmp_path / "report"),
    }
    words = (sys.executable, "-m", f"mlens.{command}", undisturbed, *own.get(command, ()))
    for how in ("closed", "full"):
        code, said = shell(BROKEN[how], *words)
        if command == "comparison":
            assert code == 0 and (tmp_path / "report" / "report.html").is_file()
        else:
            assert code == 2 and said.startswith("error: standard output: ") and said.count("\n") == 1
    code, said = shell(BROKEN["no reader"], *words)
    assert (code, said) == (0 if command == "comparison" else READER_GONE, "")
    assert os.path.lexists(tmp_path / "report") == (command == "comparison")
