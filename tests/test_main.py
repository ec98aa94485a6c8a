"""The command line: one program for all commands, and how each of them ends that is interrupted."""

import subprocess
import sys

import pytest

from mlens import __version__
from mlens.__main__ import COMMANDS, main
from mlens.cli.train import TRAIN
from mlens.launch import start
from tests.helpers.runs import ROOT, child_environment

# What each command calls for its work, and a command line that leads there.
WORK = {
    "plan": ("mlens.cli.plan.print_plan", ["seed=1"]),
    "show": ("mlens.cli.show.show", ["user=1"]),
    "probe": ("mlens.cli.probe.probe", ["seed=1"]),
    "predict": ("mlens.cli.predict.run", ["RUN", "--history", "h.csv", "--movies", "m.csv"]),
    "runs": ("mlens.cli.runs.show", ["DIR"]),
    "evaluate": ("mlens.evaluation.reevaluate.reevaluate", ["RUN", "history=none"]),
    "compare": ("mlens.comparison.report.report", ["DIR"]),
    "push": ("mlens.cli.push.run", ["RUN", "somebody/ratings"]),
}


def called(monkeypatch, capsys, *words):
    """The exit code of `mlens WORDS`, and what it printed."""
    monkeypatch.setattr(sys, "argv", ["mlens", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code, capsys.readouterr()


def test_help_lists_the_commands_and_another_word_is_refused(monkeypatch, capsys):
    code, printed = called(monkeypatch, capsys, "--help")
    assert code == 0 and all(f"\n  {name} " in printed.out and line in printed.out for name, line in COMMANDS.items())
    assert called(monkeypatch, capsys, "--version")[1].out == f"mlens {__version__}\n"
    code, printed = called(monkeypatch, capsys, "learn")
    assert code == 2 and "invalid choice: 'learn'" in printed.err


@pytest.mark.parametrize("name", WORK)
def test_a_command_has_help_and_a_version(name, monkeypatch, capsys):
    code, printed = called(monkeypatch, capsys, name, "--help")
    assert code == 0 and printed.out.startswith(f"usage: mlens {name} ")
    code, printed = called(monkeypatch, capsys, name, "--version")
    assert code == 0 and printed.out == f"mlens {__version__}\n"


@pytest.mark.parametrize("name", WORK)
def test_ctrl_c_ends_a_command_with_one_line(name, monkeypatch, capsys):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    work, words = WORK[name]
    monkeypatch.setattr(work, interrupted)
    code, printed = called(monkeypatch, capsys, name, *words)
    assert code == 130 and printed.err == "stopped: Ctrl-C was pressed\n" and not printed.out


def test_every_command_has_a_file_and_is_tested():
    files = {file.stem for file in (ROOT / "mlens" / "cli").glob("*.py")} - {"__init__"}
    assert files == set(COMMANDS) == {*WORK, "train"}


def test_train_is_train_py(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["mlens", "train", "--cfg", "job", "seed=7"])
    main()
    assert "\nseed: 7\n" in capsys.readouterr().out
    assert TRAIN.resolve() == ROOT / "train.py"


def test_help_loads_nothing_heavy():
    program = """
import sys
from mlens.__main__ import COMMANDS, main
for name in COMMANDS.keys() - {"train"}:
    sys.argv = ["mlens", name, "--help"]
    try:
        main()
    except SystemExit:
        pass
print(sorted({"torch", "polars", "rich"} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=child_environment(), capture_output=True, text=True
    )
    assert done.stdout.endswith("\n[]\n"), done.stdout + done.stderr


def test_train_has_the_version_of_mlens(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train.py", "--version"])
    start(lambda: pytest.fail("a run was started"))
    assert capsys.readouterr().out == f"mlens {__version__}\n"
