"""metrics.jsonl after a kill, a power failure or disk damage: exactly the records up to the resumed checkpoint."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydra_plugins.mlens_launcher._board import JobProgress
from mlens.training.journal import Journal, intact_records

STEP = 6


def record(step, kind="train", **values):
    return json.dumps({"kind": kind, "step": step, "epoch": 0, "seconds": 1.0, **values}).encode() + b"\n"


RECORDS = [record(step, kind, loss=1 / step) for step in range(1, 10) for kind in ("train", "val")]
KEPT = b"".join(RECORDS[: 2 * STEP])
TAIL = b"".join(RECORDS[2 * STEP :])


@st.composite
def damaged(draw, content):
    """`content` truncated, or with bytes changed, inserted or deleted."""
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(content)))
        how = draw(st.sampled_from(("cut", "turn", "insert", "delete")))
        if how == "cut":
            content = content[:at]
        elif how == "turn":
            other = draw(st.binary(min_size=1, max_size=3))
            content = content[:at] + other + content[at + len(other) :]
        elif how == "insert":
            content = content[:at] + draw(st.binary(max_size=20) | st.sampled_from(RECORDS)) + content[at:]
        else:
            content = content[:at] + content[at + draw(st.integers(1, 40)) :]
    return content


@given(damaged(TAIL))
def test_everything_after_the_checkpoint_is_truncated(tail):
    assert intact_records(KEPT + tail, STEP, len(KEPT)) == (KEPT, False)


@given(st.integers(0, len(KEPT) - 1), st.integers(1, 255), damaged(TAIL) | st.just(TAIL))
def test_a_damaged_line_before_the_checkpoint_leaves_the_others(at, change, tail):
    content = bytearray(KEPT)
    content[at] ^= change
    kept, lost = intact_records(bytes(content) + tail, STEP, len(KEPT))
    hurt = KEPT[:at].count(b"\n")
    # A changed line break damages two lines, and an inserted one possibly none: a line may still be a record.
    for number, line in enumerate(RECORDS[: 2 * STEP]):
        assert line in kept or number in (hurt, hurt + 1)
    assert lost or kept == bytes(content)
    for line in kept.removesuffix(b"\n").split(b"\n"):  # splitlines also splits at b"\r", which JSON allows
        assert json.loads(line)["step"] <= STEP


@given(st.integers(0, len(KEPT) - 1))
def test_a_file_truncated_before_the_checkpoint_keeps_its_complete_lines(size):
    kept, lost = intact_records(KEPT[:size], STEP, len(KEPT))
    assert lost and kept == KEPT[: KEPT[:size].rfind(b"\n") + 1]


@pytest.mark.parametrize("more", [b"", TAIL, b'{"kind": "train", "st', TAIL + b"\0\0\0\n\xff"])
def test_a_checkpoint_without_a_journal_size(more):
    assert intact_records(KEPT + more, STEP, None) == (KEPT, False)
    assert intact_records(RECORDS[0] + b"\0\n" + RECORDS[1] + more, STEP, None) == (RECORDS[0] + RECORDS[1], True)


@pytest.fixture
def journal(tmp_path):
    with Journal(tmp_path / "metrics.jsonl", True) as journal:
        yield journal, tmp_path / "metrics.jsonl"


def test_a_resume_continues_after_the_intact_records_and_warns_once(journal, caplog):
    journal, file = journal
    for step in range(1, 4):
        journal.record("train", step, loss=1.0)
    size = journal.sync()
    journal.record("train", 4, loss=1.0)
    journal.rewind(3, size)
    assert not caplog.messages
    file.write_bytes(file.read_bytes().replace(b'"step": 2', b'"step: 2'))
    journal.rewind(3, size)
    (warned,) = caplog.messages
    assert warned.endswith("metrics.jsonl is damaged: some records of steps up to 3 are lost")
    journal.record("train", 4, loss=2.0)
    assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [1, 3, 4]


def test_records_are_on_disk_before_a_checkpoint_counts_them(journal, monkeypatch):
    journal, file = journal
    flushed, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda n: (flushed.append(str(Path(f"/proc/self/fd/{n}").readlink())), fsync(n)))
    journal.record("train", 1, loss=1.0)
    assert journal.sync() == file.stat().st_size
    assert flushed == [str(file), str(file.parent)]


def test_a_sweeps_board_skips_damaged_lines(tmp_path):
    (tmp_path / "training_logs").mkdir()
    (tmp_path / "training_logs" / "metrics.jsonl").write_bytes(RECORDS[0] + b"\0\n[]\n{}\n" + RECORDS[2] + b"half")
    standing = JobProgress()
    standing.refresh(tmp_path)
    assert (standing.step, standing.step_seconds) == (2, 2.0)
