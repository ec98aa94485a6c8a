"""What --clean removes: intact checkpoints of finished runs, and nothing else, at any moment."""

import shutil
import sys
from itertools import count
from pathlib import Path

import pytest

from mlens.cli import runs as command
from mlens.engine.manifest import checkpoint_name, read_manifest, saved_steps
from mlens.errors import UserError
from mlens.runs.clean import find_removable, remove
from mlens.training.folder import lock_run_folder
from tests.helpers.made_up_checkpoints import finish, make_checkpoint
from tests.helpers.made_up_runs import make_run
from tests.helpers.runs import run_here, summary_of


@pytest.fixture
def run(tmp_path):
    return finish(make_run(tmp_path / "run"), 10, 20, 30, best=20)


def contents(folder):
    """Every file and link beneath, but the lock that a removal takes."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.name != ".lock"}


def names(paths):
    return [path.name for path in paths]


def cleaned(folder, *arguments):
    command.clean([folder], *arguments)


def test_all_checkpoints_can_go_and_all_else_stays(run):
    before = contents(run)
    found = find_removable(run)
    assert names(found.checkpoints) == ["step_00000030", "step_00000020", "step_00000010"] and not found.kept
    assert found.bytes == sum(f.stat().st_size for path in found.checkpoints for f in path.iterdir()) > 600
    assert contents(run) == before, "finding removes nothing"
    removed = list(remove(run))
    assert [path for path, _ in removed] == list(found.checkpoints) and sum(size for _, size in removed) == found.bytes
    gone = {name for name in before if name.startswith("checkpoints/")}
    assert contents(run) == before - gone
    assert find_removable(run).checkpoints == ()


def test_the_best_one_can_stay(run):
    assert names(find_removable(run, keep_best=True).checkpoints) == ["step_00000030", "step_00000010"]
    list(remove(run, keep_best=True))
    assert saved_steps(run / "checkpoints") == [20]
    assert (run / "checkpoints" / "best").readlink() == Path("step_00000020")
    assert not (run / "checkpoints" / "last").is_symlink(), "a link to nothing would be left"
    assert find_removable(run, keep_best=True).checkpoints == ()


def test_without_validation_the_newest_is_the_best(tmp_path):
    run = finish(make_run(tmp_path / "run"), 10, 20)
    assert names(find_removable(run, keep_best=True).checkpoints) == ["step_00000010"]


def test_what_is_no_checkpoint_of_mlens_stays(run):
    checkpoints = run / "checkpoints"
    (checkpoints / "step_00000040").mkdir()  # without a manifest
    (checkpoints / "step_00000030" / "manifest.json").write_text("{}")  # damaged
    (checkpoints / "step_00000020" / "notes.txt").write_text("mine")
    (checkpoints / "step_00000050").symlink_to("step_00000010")
    (checkpoints / "step_00000060").write_text("a file")
    make_checkpoint(checkpoints, 70).rename(checkpoints / "step_00000080")
    for name in ("mine", "step_10", "zero_to_fp32.py"):
        (checkpoints / name).mkdir()
    before = contents(run)
    found = find_removable(run)
    assert names(found.checkpoints) == ["step_00000010"]
    for step, said in {
        40: "can't be read",
        30: "manifest",
        20: "notes.txt",
        50: "not a folder",
        60: "not a folder",
        80: "70",
    }.items():
        (reason,) = (line for line in found.kept if checkpoint_name(step) in line)
        assert said in reason
    list(remove(run))
    assert contents(run) == {name for name in before if not name.startswith("checkpoints/step_00000010")}


def test_files_outside_are_never_reached(tmp_path, run):
    """Links as files of a checkpoint, as a checkpoint, as all checkpoints; names in a manifest that lead out."""
    outside = tmp_path / "outside"
    make_checkpoint(outside, 10)
    checkpoints = run / "checkpoints"
    (checkpoints / "step_00000020" / "model.pt").unlink()
    (checkpoints / "step_00000020" / "model.pt").symlink_to(outside / "step_00000010" / "model.pt")
    shutil.rmtree(checkpoints / "step_00000030")
    (checkpoints / "step_00000030").symlink_to(outside / "step_00000010")
    before = contents(outside)
    list(remove(run))
    assert contents(outside) == before and saved_steps(checkpoints) == [20]
    shutil.rmtree(checkpoints)
    checkpoints.symlink_to(outside)
    assert find_removable(run).checkpoints == () and "is a link" in find_removable(run).kept[0]
    list(remove(run))
    assert contents(outside) == before


@pytest.mark.parametrize(
    ("hurt", "said"),
    [
        (lambda run: (run / "summary.json").unlink(), "no finished run"),
        (lambda run: (run / "summary.json").write_text("{"), "can't be read"),
        (lambda run: (run / "model" / "model.safetensors").unlink(), "all that is left of the model"),
    ],
)
def test_unfinished_and_broken_runs_keep_theirs(run, hurt, said):
    hurt(run)
    before = contents(run)
    with pytest.raises(UserError, match=said):
        find_removable(run)
    with pytest.raises(UserError, match=said):
        list(remove(run))
    assert contents(run) == before


def test_a_run_at_work_keeps_its_checkpoints(run):
    before = contents(run)
    with lock_run_folder(run), pytest.raises(UserError, match="another run is using"):
        list(remove(run))
    assert contents(run) == before


class Killed(BaseException):
    """No exception that the code could catch and mend."""


@pytest.mark.parametrize("keep_best", [False, True])
def test_a_removal_that_is_killed_at_any_moment_leaves_intact_checkpoints_and_continues(tmp_path, run, keep_best):
    """The disk's changes are counted, and the process dies before each of them once."""
    for after in count():
        copy = tmp_path / str(after)
        shutil.copytree(run, copy, symlinks=True)
        finished = removed_until(after, copy, keep_best)
        checkpoints = copy / "checkpoints"
        steps = saved_steps(checkpoints)
        for step in steps:
            folder = checkpoints / checkpoint_name(step)
            saved, _ = read_manifest(folder)
            assert saved is not None and {file.name for file in folder.iterdir()} == {"manifest.json", *saved.files}
            assert saved.needs in (None, *steps), "one that is left needs one that is gone"
        list(remove(copy, keep_best))
        left = [path.name for path in checkpoints.iterdir() if not path.is_symlink()]
        assert left == (["step_00000020"] if keep_best else [])
        assert all(path.exists() for path in checkpoints.iterdir()), "a link leads to nothing"
        if finished:
            break
    assert after >= 10


def removed_until(changes: int, run: Path, keep_best: bool) -> bool:
    """Remove with so many changes of the disk; whether that was enough."""
    left = [changes]

    def dying(change):
        def changed(*arguments, **named):
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            return change(*arguments, **named)

        return changed

    with pytest.MonkeyPatch.context() as patched:
        for name in ("unlink", "rename", "rmdir"):
            patched.setattr(Path, name, dying(getattr(Path, name)))
        try:
            list(remove(run, keep_best))
        except Killed:
            return False
    return True


def test_a_dry_run_and_a_no_remove_nothing(tmp_path, run, capsys, monkeypatch):
    before = contents(run)
    cleaned(tmp_path, False, True, False)
    out = capsys.readouterr().out
    assert "step_00000010, step_00000020, step_00000030" in out and out.endswith("nothing was removed\n")
    with pytest.raises(UserError, match="--yes"):  # nobody can be asked
        cleaned(tmp_path, False, False, False)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: "")
    cleaned(tmp_path, False, False, False)
    assert contents(run) == before and capsys.readouterr().out.endswith("nothing was removed\n")
    monkeypatch.setattr("builtins.input", lambda _: "y")
    cleaned(tmp_path, False, False, False)
    assert saved_steps(run / "checkpoints") == []


def test_of_many_runs_only_the_finished_ones_are_cleaned(tmp_path, run, capsys):
    other = make_run(tmp_path / "unfinished")
    (other / "summary.json").unlink()
    make_checkpoint(other / "checkpoints", 5)
    bare = make_run(tmp_path / "bare")
    make_checkpoint(bare / "checkpoints", 5)
    cleaned(tmp_path, False, False, True)
    out = capsys.readouterr().out
    assert "unfinished: kept, the run is unfinished" in out and "bare: kept: " in out
    assert [saved_steps(path / "checkpoints") for path in (run, other, bare)] == [[], [5], [5]]


def test_the_command_refuses_flags_that_do_nothing(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["runs", "outputs", "--yes"])
    with pytest.raises(SystemExit):
        command.main()
    assert "go with --clean" in capsys.readouterr().err


@pytest.mark.slow
def test_a_cleaned_run_trains_on_from_the_best_or_says_that_it_starts_over(tmp_path, capsys):
    """A finished run is trained longer by removing its summary and resuming."""
    run_here(tmp_path / "a", "debug=fast")
    shutil.copytree(tmp_path / "a", tmp_path / "b", symlinks=True)
    best = summary_of(tmp_path / "a")["training"]["best_step"]
    for name, keep_best, said in (("a", True, f"resumed after step {best}"), ("b", False, "the run starts over")):
        run = tmp_path / name
        list(remove(run, keep_best))
        assert saved_steps(run / "checkpoints") == ([best] if keep_best else [])
        (run / "summary.json").unlink()
        capsys.readouterr()
        with pytest.warns(UserWarning, match="another schedule"):
            run_here(run, "debug=fast", "resume=true", "trainer.max_steps=6")
        assert said in capsys.readouterr().err
        assert summary_of(run)["training"]["step"] == 6
