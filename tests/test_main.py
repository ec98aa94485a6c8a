"""The command line: one program for all commands, and how each of them ends that is interrupted."""

import subprocess
import sys

import pytest

from mlens import __version__
from mlens.__main__ import COMMANDS, main
from mlens.launch import start
from tests.helpers.runs import ROOT, child_environment

# What each command calls for its work, and a command line that leads there.
WORK = {
    "plan": ("mlens.plan.__main__.plan_and_tell", ["seed=1"]),
    "show": ("mlens.show.__main__.show", ["user=1"]),
    "probe": ("mlens.probe.__main__.probe", ["seed=1"]),
    "predict": ("mlens.predict.__main__.run", ["RUN", "--history", "h.csv", "--movies", "m.csv"]),
    "runs": ("mlens.runs.__main__.show", ["DIR"]),
    "evaluate": ("mlens.evaluation.__main__.evaluate_under", ["RUN", "history=none"]),
    "compare": ("mlens.comparison.report.report", ["DIR"]),
}


def called(monkeypatch, capsys, *words):
    """The exit code of `mlens WORDS`, and what it printed."""
    monkeypatch.setattr(sys, "argv", ["mlens", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code, capsys.readouterr()


def test_help_lists_the_commands_and_another_word_is_refused(monkeypatch, capsys):
    code, printed = called(monkeypatch, capsys, "--help")
    assert code == 0 and all(
        f"\n  {name} " in printed.out and line in printed.out for name, (_, line) in COMMANDS.items()
    )
    assert called(monkeypatch, capsys, "--version")[1].out == f"mlens {__version__}\n"
    code, printed = called(monkeypatch, capsys, "train")
    assert code == 2 and "invalid choice: 'train'" in printed.err


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_help_and_a_version(name, monkeypatch, capsys):
    code, printed = called(monkeypatch, capsys, name, "--help")
    assert code == 0 and printed.out.startswith(f"usage: mlens {name} ")
    code, printed = called(monkeypatch, capsys, name, "--version")
    assert code == 0 and printed.out == f"mlens {__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_ctrl_c_ends_a_command_with_one_line(name, monkeypatch, capsys):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    work, words = WORK[name]
    monkeypatch.setattr(work, interrupted)
    code, printed = called(monkeypatch, capsys, name, *words)
    assert code == 130 and printed.err == "stopped: Ctrl-C was pressed\n" and not printed.out


def test_help_loads_nothing_heavy():
    program = """
import sys
from mlens.__main__ import COMMANDS, main
for name in COMMANDS:
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
