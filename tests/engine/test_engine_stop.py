"""A signal's request to stop: when it is noted, when it is honoured at once, and what later ones do."""

import os
import signal
import subprocess
import sys

import pytest
import torch

from mlens.engine.ending import end_ranks_together
from mlens.engine.ranks import Ranks
from mlens.engine.stop import SIGNALS, stoppable
from mlens.errors import RunFailed, Stopped
from tests.helpers.runs import child_environment

ALL = (*SIGNALS, signal.SIGINT)
ALONE = Ranks(0, 1, torch.device("cpu"))


def handlers():
    return {number: signal.getsignal(number) for number in ALL}


def kill_self(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", ALL)
def test_before_anything_is_to_be_saved_a_signal_stops_at_once_and_no_except_swallows_it(number):
    with pytest.raises(Stopped, match="before the first step"), stoppable():
        try:
            kill_self(number)
        except Exception:
            pytest.fail("swallowed")
    assert set(handlers().values()) == {signal.SIG_IGN}
    kill_self(number)  # it is leaving already


@pytest.mark.parametrize("number", ALL)
def test_ranks_in_step_note_a_signal_until_they_agree_and_at_the_end_at_the_latest(number):
    with pytest.raises(Stopped, match="resume=true"), stoppable() as stop, end_ranks_together(ALONE, stop):
        assert not stop.agreed(ALONE)
        kill_self(number)
        assert stop.agreed(ALONE)


def test_a_signal_that_was_noted_is_honoured_as_soon_as_nothing_is_left_to_save():
    with pytest.raises(Stopped, match="all saved"), stoppable() as stop:
        stop.defer()
        kill_self(signal.SIGTERM)
        stop.interrupt("all saved")


def test_a_signal_during_the_last_writes_changes_nothing():
    with stoppable() as stop:
        stop.interrupt("all saved")
        stop.defer()
        kill_self(signal.SIGTERM)
    assert set(handlers().values()) == {signal.SIG_IGN}


@pytest.mark.parametrize("error", [RunFailed("full"), KeyboardInterrupt()])
def test_handlers_are_as_before_after_an_error(error):
    before = handlers()
    with pytest.raises(type(error)), stoppable() as stop, end_ranks_together(ALONE, stop):
        raise error
    assert handlers() == before


def test_a_second_ctrl_c_ends_at_once_and_the_first_says_so(capfd):
    with pytest.raises(KeyboardInterrupt), stoppable() as stop, end_ranks_together(ALONE, stop):
        kill_self(signal.SIGINT)
        assert "Ctrl-C again ends it at once" in capfd.readouterr().err
        kill_self(signal.SIGTERM)  # no second one
        kill_self(signal.SIGINT)
        pytest.fail("not ended")


def test_a_rank_of_torchrun_may_get_one_ctrl_c_twice(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    with pytest.raises(Stopped, match="resume=true"), stoppable() as stop, end_ranks_together(ALONE, stop):
        kill_self(signal.SIGINT)
        kill_self(signal.SIGINT)


def test_in_the_background_of_a_script_ctrl_c_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with stoppable():
        kill_self(signal.SIGINT)


def test_under_nohup_a_closed_terminal_is_ignored_but_by_ranks_of_torchrun(monkeypatch):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with stoppable():
        kill_self(signal.SIGHUP)
    # torchrun kills ranks that it passed SIGHUP on to and that don't end.
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    with pytest.raises(Stopped), stoppable():
        kill_self(signal.SIGHUP)


ENDED = """
import os, signal, sys
from mlens.engine.stop import stoppable
from mlens.errors import exit_on_user_error

class Last:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)

sys.modules["kept_to_the_end"] = Last()
with exit_on_user_error(), stoppable() as stop:
    if sys.argv[1] == "stopped":
        os.kill(os.getpid(), signal.SIGHUP)
    stop.defer()
"""


@pytest.mark.parametrize(("how", "code"), [("stopped", 75), ("finished", 0)])
def test_a_signal_while_the_interpreter_ends_doesnt_change_the_exit_code(how, code):
    """Its own handlers are gone by then."""
    ended = subprocess.run([sys.executable, "-c", ENDED, how], env=child_environment(), capture_output=True, text=True)
    assert ended.returncode == code and ended.stderr.count("\n") == (how == "stopped")
