"""What each tracker writes: the metrics, config and summary of a run, the same run after a resume, and a report."""

import json
import struct
import sys
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest
import wandb
import yaml

from mlens.comparison.tracking import track
from mlens.errors import UserError
from mlens.preflight import preflight
from mlens.tracking.settings import NONE, TRACKERS, Wandb, enabled_trackers, require_trackers
from mlens.tracking.tracker import open_trackers
from mlens.training.journal import Journal
from tests.helpers.runs import ROOT, checked

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


def of_wandb(folder: Path) -> list:
    """The records in the files of Weights & Biases for `wandb sync`, in order.

    A file is a log of LevelDB behind 7 bytes: blocks of 32 KiB with pieces of records, each behind its checksum (4
    bytes), length (2) and kind (1: complete, 2: first, 3: middle, 4: last).
    """
    from wandb.proto.wandb_internal_pb2 import Record

    records = []
    for file in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        content, at, record = file.read_bytes(), 7, b""
        while at < len(content):
            if (left := -at % 32768) < 7:
                at += left
            _, length, kind = struct.unpack_from("<IHB", content, at)
            record += content[at + 7 : at + 7 + length]
            at += 7 + length
            if kind in (1, 4):
                records.append(Record.FromString(record))
                record = b""
    return records


@pytest.mark.slow
def test_wandb_has_a_run_and_its_resume_as_one(tmp_path):
    train(tmp_path, "wandb", steps=range(1, 5))
    train(tmp_path, "wandb", steps=range(3, LAST + 1), resumed_after=2)
    records = of_wandb(tmp_path)
    runs = [record.run for record in records if record.HasField("run")]
    assert {(run.project, run.display_name, run.run_group) for run in runs} == {("films", "run", "sweep")}
    assert len({run.run_id for run in runs}) == 1
    config = {item.key: json.loads(item.value_json) for item in runs[0].config.update}
    assert config | CONFIG == config
    numbers: dict[str, dict[int, float]] = {}
    summary: dict = {}
    for record in records:
        if record.HasField("history"):
            values = {
                "/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item
            }
            step = int(values["_step"])
            for name in (name for name in values if "/" in name and values[name] is not None):
                assert numbers.setdefault(name, {}).setdefault(step, values[name]) == values[name]
        if record.HasField("summary"):
            summary |= {item.key: json.loads(item.value_json) for item in record.summary.update}
    assert numbers == {name: dict(points) for name, points in logged(tmp_path).items()}
    assert summary | SUMMARY == summary


@pytest.mark.slow
def test_a_run_that_the_agent_of_wandb_starts_is_its_sweeps_and_so_is_a_resume(tmp_path, monkeypatch):
    with monkeypatch.context() as agent:
        agent.setenv("WANDB_SWEEP_ID", "sw33p1d0")
        agent.setenv("WANDB_RUN_ID", "zx81zx81")
        wandb.teardown()  # a new process reads the environment
        train(tmp_path, "wandb", steps=range(1, 5))
    wandb.teardown()
    train(tmp_path, "wandb", steps=range(3, LAST + 1), resumed_after=2)
    runs = [record.run for record in of_wandb(tmp_path) if record.HasField("run")]
    assert runs[0].sweep_id == "sw33p1d0"
    assert {run.run_id for run in runs} == {"zx81zx81"} and {run.run_group for run in runs} == {"sweep"}


def test_what_the_agent_of_wandb_starts_is_a_run():
    """examples/wandb_sweep.yaml, with every value that the server may choose at its bounds."""
    sweep = yaml.safe_load((ROOT / "examples" / "wandb_sweep.yaml").read_text())
    bounds = [space.get("values") or [space["min"], space["max"]] for space in sweep["parameters"].values()]
    for values in product(*(each[:: len(each) - 1] for each in bounds)):
        given = [f"{key}={value}" for key, value in zip(sweep["parameters"], values, strict=True)]
        parts = {"${env}": ["/usr/bin/env"], "${program}": [sweep["program"]], "${args_no_hyphens}": given}
        command = [word for part in sweep["command"] for word in parts.get(part, [part])]
        assert command[:3] == ["/usr/bin/env", "python", "train.py"] and (ROOT / "train.py").is_file()
        settings = checked(*command[3:])
        assert (settings.trainer.learning_rate, settings.history.count) == values
        assert settings.trackers == ("wandb",) and settings.wandb.mode == "online"
    assert settings.wandb.project == sweep["project"]
    assert sweep["metric"] == {"name": "val/best_rmse", "goal": "minimize"}  # as mlens.training.loop records it


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


@pytest.fixture
def of_trackio(tmp_path, monkeypatch):
    """of_trackio(query) -> rows of what Trackio has stored, in a folder of this test."""
    pytest.importorskip("trackio", reason="needs the extra trackio")
    from trackio.sqlite_storage import SQLiteStorage

    places = {"TRACKIO_DIR": tmp_path / "trackio", "MEDIA_DIR": tmp_path / "trackio" / "media"}
    for module in [module for name, module in sys.modules.items() if name.partition(".")[0] == "trackio"]:
        for name, place in places.items():
            if hasattr(module, name):
                monkeypatch.setattr(module, name, place)
    places["TRACKIO_DIR"].mkdir()
    return lambda query: SQLiteStorage.query_project(SETTINGS.project, query)["rows"]


def numbers_of(rows: list[dict]) -> dict[str, dict[int, float]]:
    """{name: {step: value}} of Trackio's rows, which agree where a step occurs twice."""
    numbers: dict[str, dict[int, float]] = {}
    for row in rows:
        for name, value in json.loads(row["metrics"]).items():
            assert numbers.setdefault(name, {}).setdefault(row["step"], value) == value
    return numbers


def test_trackio_has_a_run_and_its_resume_as_one(of_trackio, tmp_path, capsys):
    train(tmp_path / "run", "trackio", steps=range(1, 5))
    train(tmp_path / "run", "trackio", steps=range(3, LAST + 1), resumed_after=2)
    rows = of_trackio("SELECT run_name, run_id, step, metrics FROM metrics ORDER BY id")
    assert len({(row["run_name"], row["run_id"]) for row in rows}) == 1 and rows[0]["run_name"].startswith("run-")
    expected = {name: dict(points) for name, points in logged(tmp_path / "run").items()}
    assert numbers_of(rows) == expected | {name: {LAST: value} for name, value in FLAT.items()}
    (stored,) = of_trackio("SELECT config FROM configs")
    config = json.loads(stored["config"])
    assert config | CONFIG == config and config["_Group"] == "sweep"
    assert capsys.readouterr().out == ""


def test_trackio_has_a_report(of_trackio, written):
    track(written, ["trackio"], SETTINGS, written.html.parent)
    (row,) = of_trackio("SELECT run_name, metrics FROM metrics")
    logged_report = json.loads(row["metrics"])
    assert row["run_name"].startswith("report-")
    assert logged_report["answer"]["_value"] == written.answer
    assert logged_report["results"]["_value"] == written.table.to_dicts()
    assert logged_report["report"]["_type"] == "trackio.html"


def test_several_trackers_have_the_same_numbers(of_trackio, tmp_path):
    pytest.importorskip("tensorboard", reason="needs the extra tensorboard")
    names = enabled_trackers(["wandb", "tensorboard", "trackio"], Wandb(mode="disabled"))
    train(tmp_path / "run", *names, steps=range(1, LAST + 1))
    numbers, _ = of_tensorboard(tmp_path / "run" / "tensorboard")
    stored = numbers_of(of_trackio("SELECT step, metrics FROM metrics"))
    assert {name: dict(points) for name, points in numbers.items()} == {
        name: pytest.approx(points) for name, points in stored.items()
    }
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"training_logs", "tensorboard", ".trackio_name"}


def test_the_command_line_names_several_trackers():
    assert checked("tracker=[wandb,trackio]", "wandb.mode=offline").trackers == ("wandb", "trackio")


@pytest.mark.parametrize("name", [name for name in TRACKERS if name != "wandb"])
@pytest.mark.parametrize("folder", [False, True])
def test_a_tracker_that_is_not_installed_is_refused_in_one_line(name, folder, tmp_path, monkeypatch):
    if folder:  # of the same name, as one with event files may have
        (tmp_path / name).mkdir()
        monkeypatch.setattr(sys, "path", [str(tmp_path)])
        monkeypatch.delitem(sys.modules, name, raising=False)
    else:
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
