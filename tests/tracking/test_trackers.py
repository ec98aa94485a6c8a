"""What each tracker writes: the metrics, config and summary of a run, the same run after a resume, and a report."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest

from mlens.comparison.tracking import track
from mlens.errors import UserError
from mlens.preflight import preflight
from mlens.tracking.settings import NONE, TRACKERS, Wandb, enabled_trackers, require_trackers
from mlens.tracking.tracker import open_trackers
from mlens.training.journal import Journal

CONFIG = {"seed": 3, "history": {"_target_": "mlens.history.Random", "ratio": 0.5}, "wandb": {"group": "sweep"}}
SETTINGS = Wandb(project="films", name="run", group="sweep")
SUMMARY = {"val": {"rmse": 0.9}, "test": {"rmse": 0.95, "by_user_activity": {"1-19": {"rmse": 1.5, "targets": 4}}}}
FLAT = {
    "summary/val/rmse": 0.9,
    "summary/test/rmse": 0.95,
    "summary/test/by_user_activity/1-19/rmse": 1.5,
    "summary/test/by_user_activity/1-19/targets": 4.0,
}
LAST = 5


def train(folder: Path, *names: str, steps: range, resumed_after: int | None = None, seed: int = 3) -> None:
    """Log what a run logs, in a folder like a run's."""
    (folder / "training_logs").mkdir(parents=True, exist_ok=True)
    trackers = open_trackers(names, SETTINGS, folder, CONFIG | {"seed": seed})
    with Journal(folder / "training_logs" / "metrics.jsonl", True, trackers) as journal:
        if resumed_after is not None:
            journal.rewind(resumed_after)
        for step in steps:
            # Exact in float32, in which event files hold scalars.
            journal.record("train", step, loss=1 + 1 / 2**step, epoch=0, note=None)
            if step % 2 == 0:
                journal.record("val", step, rmse=0.5 + 1 / 2**step)
        if LAST in steps:
            journal.summarise(SUMMARY, LAST)


def logged(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The (step, value) of each metric in metrics.jsonl."""
    found: dict[str, list[tuple[int, float]]] = {}
    for line in (folder / "training_logs" / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        kind, step = record.pop("kind"), record.pop("step")
        for name, value in record.items():
            if value is not None:
                found.setdefault(f"{kind}/{name}", []).append((step, value))
    return found


@pytest.fixture
def written(tmp_path):
    """A written report, in the folder of its sweep."""
    folder = tmp_path / "sweep"
    folder.mkdir()
    (folder / "report.html").write_text("<p>the page</p>")
    (folder / "report.md").write_text("# Two strategies\n")
    frame = pl.DataFrame({"arm": ["none", "random"], "rmse": [1.0, 0.9]})
    return SimpleNamespace(html=folder / "report.html", answer="random has the lowest RMSE", table=frame)


def of_tensorboard(folder: Path):
    """What TensorBoard itself reads: {name: [(step, value)]} of scalars, and {name: [text]}."""
    pytest.importorskip("tensorboard", reason="needs the extra tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0}).Reload()
    tags = read.Tags()
    numbers = {name: [(event.step, event.value) for event in read.Scalars(name)] for name in tags["scalars"]}
    texts = {
        name.removesuffix("/text_summary"): [e.tensor_proto.string_val[0].decode() for e in read.Tensors(name)]
        for name in tags["tensors"]
    }
    return numbers, texts


def test_tensorboard_reads_a_run_and_its_resume_as_one(tmp_path):
    pytest.importorskip("tensorboard", reason="needs the extra tensorboard")
    train(tmp_path, "tensorboard", steps=range(1, 5))
    train(tmp_path, "tensorboard", steps=range(3, LAST + 1), resumed_after=2, seed=4)
    numbers, texts = of_tensorboard(tmp_path / "tensorboard")
    assert numbers == logged(tmp_path) | {name: [(LAST, pytest.approx(value))] for name, value in FLAT.items()}
    assert [step for step, _ in numbers["train/loss"]] == [1, 2, 3, 4, 5]
    first, second = texts["config"]
    assert "    seed: 3\n" in first and "    seed: 4\n" in second and "    group: sweep\n" in first


def test_tensorboard_reads_a_report(written):
    pytest.importorskip("tensorboard", reason="needs the extra tensorboard")
    track(written, ["tensorboard"], SETTINGS, written.html.parent)
    numbers, texts = of_tensorboard(written.html.parent / "tensorboard")
    assert numbers == {} and texts == {"answer": [written.answer], "report": ["# Two strategies\n"]}


@pytest.mark.parametrize("name", [name for name in TRACKERS if name != "wandb"])
def test_a_tracker_that_is_not_installed_is_refused_in_one_line(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    settings = SimpleNamespace(trackers=(name,), wandb=Wandb(), model=None)
    with pytest.raises(UserError, match=rf"tracker={name} needs the package {name}: pip install -e '\.\[{name}\]'"):
        preflight(settings)


def test_without_a_tracker_nothing_is_imported_or_written(tmp_path, monkeypatch):
    for name in TRACKERS:
        monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.delitem(sys.modules, f"mlens.tracking.{name}_run", raising=False)
    train(tmp_path, *enabled_trackers(NONE, SETTINGS), steps=range(1, LAST + 1))
    assert [path.name for path in tmp_path.iterdir()] == ["training_logs"]


@pytest.mark.parametrize("value", ["wandb", "none", [], ["wandb"], ["tensorboard", "wandb"]])
def test_names_of_trackers_and_lists_of_them(value):
    require_trackers(value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("loud", "tracker must be wandb.* or none, not loud"),
        (None, "tracker must be wandb.* or none, not None"),
        (["wandb", "loud"], "tracker, as a list, must be wandb.*, not loud"),
        (["wandb", "none"], "tracker, as a list, must be wandb.*, not none"),
        (["wandb", "wandb"], r"tracker=\[wandb,wandb\] names a tracker twice"),
    ],
)
def test_other_trackers_are_refused(value, message):
    with pytest.raises(UserError, match=message):
        require_trackers(value)
