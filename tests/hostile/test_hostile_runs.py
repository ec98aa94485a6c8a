"""The files of finished runs and sweeps, mutated: a report, or one clear line that names the file."""

import copy
import json
import math
import os
import random
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hydra_plugins.mlens_launcher._ledger import Job, Ledger, read_ledger
from mlens.comparison.report import report
from mlens.comparison.run_files import SUMMARISED, SUMMARY, read_predictions
from mlens.errors import UserError
from mlens.schema import read_json
from tests.helpers.byte_mutations import mutate
from tests.helpers.made_up_runs import leave_out_figures, make_run
from tests.helpers.outcomes import bounded, is_clear

FILES = {
    "summary.json": "summary.json",
    "metrics.jsonl": "training_logs/metrics.jsonl",
    "prompts.json": "predictions/prompts.json",
    "plan.json": "plan.json",
    "config.yaml": ".hydra/config.yaml",
    "test.parquet": "predictions/test.parquet",
}
NASTY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(
        ["", "nan", "1", "\u202e", "</script>", "[bold]", "=1+1", "a|b", "0-4", "x" * 999, "\ud800", 10**400]
    ),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(("a", "rmse", "test")), inner, max_size=2)
    ),
    max_leaves=3,
)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    make_run(folder / "a", "all_previous", users=4, each=3, dropped=2)
    make_run(folder / "b", "fixed_count", {"count": 10}, users=4, each=3)
    return folder


@pytest.fixture
def cheap(monkeypatch):
    """All of the report but the many resamples and the drawing."""
    leave_out_figures(monkeypatch)


def reported(pristine, folder, name, content):
    """Whether a report was written of two runs, one of which has this file; else it was refused in one clear line."""
    runs = folder / "runs"
    shutil.copytree(pristine, runs, dirs_exist_ok=True)
    (runs / "b" / FILES[name]).write_bytes(content)
    try:
        with bounded():
            written = report([runs], folder / "out")
    except UserError as error:
        assert is_clear(error, runs)
        return False
    finally:
        shutil.rmtree(runs)
    assert len(written.table) + len(written.refused) == 2
    return True


@pytest.mark.usefixtures("cheap")
@pytest.mark.parametrize("name", FILES)
def test_the_files_as_they_are(pristine, tmp_path, name):
    assert reported(pristine, tmp_path, name, (pristine / "b" / FILES[name]).read_bytes())


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_changed_json(cheap, data, pristine, tmp_path_factory):
    name = data.draw(st.sampled_from([name for name in FILES if name.endswith(("json", "jsonl"))]))
    lines = (pristine / "b" / FILES[name]).read_text().splitlines() if name == "metrics.jsonl" else None
    content = [json.loads(line) for line in lines] if lines else json.loads((pristine / "b" / FILES[name]).read_text())
    changed = change_a_value(data, copy.deepcopy(content))
    text = "\n".join(map(json.dumps, changed)) if lines else json.dumps(changed)
    reported(pristine, tmp_path_factory.mktemp("json"), name, text.encode())


@pytest.mark.usefixtures("cheap")
@pytest.mark.parametrize("name", SUMMARISED)
def test_a_figure_that_is_none_is_refused(name, pristine, tmp_path):
    content = json.loads((pristine / "b" / FILES["summary.json"]).read_text())
    content["metrics"]["test"][name] = {}
    assert not reported(pristine, tmp_path, "summary.json", json.dumps(content).encode())


def change_a_value(data, content):
    place = content
    while True:
        keys = sorted(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        if isinstance(place[key], dict | list) and place[key] and data.draw(st.integers(0, 5)):
            place = place[key]
            continue
        if isinstance(place, dict) and data.draw(st.booleans()):
            del place[key]
        else:
            place[key] = data.draw(NASTY)
        return content


COLUMNS = {
    "text": pl.lit("x"),
    "none": pl.lit(None),
    "nan": pl.lit(float("nan")),
    "infinite": pl.lit(float("inf")),
    "large": pl.lit(1e300),
    "lists": pl.lit([1, 2]),
    "true": pl.lit(True),
    "negative": pl.lit(-3),
    "fraction": pl.lit(2.5),
}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("column", ["user", "expected", "argmax", "p_3.0"])
def test_changed_columns_of_predictions(cheap, pristine, tmp_path, column):
    frame = pl.read_parquet(pristine / "b" / FILES["test.parquet"])
    file = tmp_path / "changed.parquet"
    outcomes = {}
    for kind, value in COLUMNS.items():
        frame.with_columns(value.alias(column)).write_parquet(file)
        outcomes[kind] = reported(pristine, tmp_path, "test.parquet", file.read_bytes())
    frame.drop(column).write_parquet(file)
    outcomes["missing"] = reported(pristine, tmp_path, "test.parquet", file.read_bytes())
    refused = {kind for kind, done in outcomes.items() if not done}
    assert refused >= {"none", "lists", "true", "missing"} - ({"missing"} if column == "p_3.0" else set())
    assert "text" in refused or column == "user"


SPOILT = {
    "a probability below 0": {"p_3.0": pl.col("p_3.0") - 1, "p_4.0": pl.col("p_4.0") + 1},
    "a probability above 1": {"p_3.0": pl.col("p_3.0") + 1.5, "p_4.0": pl.col("p_4.0") - 1.5},
    "probabilities that don't sum to 1": {"p_3.0": pl.col("p_3.0") + 0.01},
    "probabilities that are none": {"p_3.0": pl.lit(float("nan"))},
    "an expected rating above the scale": {"expected": pl.lit(5.01)},
    "an expected rating below it": {"expected": pl.lit(0.9)},
    "a rating off the scale": {"rating": pl.lit(2.5)},
    "a most probable rating off the scale": {"argmax": pl.lit(6.0)},
    "a negative place": {"t": -pl.col("t")},
    "a negative history": {"history_used": pl.lit(-1)},
    "less than nothing cut": {"history_dropped": pl.lit(-1)},
    "a column of no rating": {"p_x": pl.lit(0.0)},
}


@pytest.mark.parametrize("case", SPOILT)
def test_figures_that_no_run_predicts(case, pristine, tmp_path):
    """In one row alone."""
    file = tmp_path / "test.parquet"
    frame = pl.read_parquet(pristine / "b" / FILES["test.parquet"])
    spoilt = frame.with_columns(
        pl.when(pl.int_range(pl.len()) == 4)
        .then(value)
        .otherwise(pl.col(name) if name in frame.columns else value)
        .alias(name)
        for name, value in SPOILT[case].items()
    )
    spoilt.write_parquet(file)
    for columns in (None, ("user", "movie", "t", "rating", "expected")):
        with pytest.raises(UserError) as told:
            read_predictions(file, columns)
        assert is_clear(told.value, tmp_path)


def test_a_target_that_stands_twice(pristine, tmp_path):
    frame = pl.read_parquet(pristine / "b" / FILES["test.parquet"])
    pl.concat([frame, frame.slice(3, 1)]).write_parquet(tmp_path / "test.parquet")
    with pytest.raises(UserError, match="a target occurs twice"):
        read_predictions(tmp_path / "test.parquet", ("user", "t"))


@given(
    st.lists(st.lists(st.floats(0, 1), min_size=5, max_size=5).filter(lambda p: sum(p) > 0.1), min_size=1, max_size=9)
)
def test_predictions_as_a_run_makes_them_are_read(tmp_path_factory, given_shares):
    """Normalised in 32 bits, and weighted."""
    shares = np.array(given_shares, dtype=np.float32)
    shares /= shares.sum(axis=1, keepdims=True)
    scale = np.arange(1.0, 6.0)
    rows = len(shares)
    file = tmp_path_factory.mktemp("read") / "test.parquet"
    pl.DataFrame(
        {"user": [1] * rows, "movie": range(rows), "t": range(rows), "rating": [3.0] * rows}
        | {"expected": shares @ scale, "argmax": scale[shares.argmax(axis=1)]}
        | {f"p_{rating}": shares[:, i] for i, rating in enumerate(scale)}
        | {"history_used": [0] * rows, "history_dropped": [0] * rows, "history_hash": ["x"] * rows}
    ).write_parquet(file)
    assert [len(frame) for frame in read_predictions(file)] == [rows]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(
            ("metrics.test.rmse", -0.1),
            ("metrics.test.rmse", math.nan),
            ("metrics.val.rmse", -1),
            ("metrics.test.mae", -1),
        ),
        *(
            ("metrics.test.accuracy", 1.5),
            ("metrics.test.auc", -0.5),
            ("metrics.test.taste", -1),
            ("metrics.test.level", math.nan),
            ("baselines.test.full_history.global_mean.auc", 2),
            ("metrics.test.nll", -2),
            ("metrics.test.nll", math.nan),
        ),
        *(("metrics.test.illegal_mass", 2), ("training.targets", -1), ("training.step", -3), ("seconds.training", -1)),
        *(("baselines.test.full_history.global_mean.rmse", -1), ("metrics.test.by_user_activity.1-19.targets", -5)),
    ],
)
def test_figures_that_no_summary_has(key, value, pristine, tmp_path):
    content = json.loads((pristine / "b" / FILES["summary.json"]).read_text())
    *parents, name = key.split(".")
    place = content
    for parent in parents:
        place = place[parent]
    place[name] = value
    file = tmp_path / "summary.json"
    file.write_text(json.dumps(content))
    with pytest.raises(UserError) as told:
        read_json(file, SUMMARY)
    assert is_clear(told.value, tmp_path) and key in str(told.value)


def test_no_predictions_at_all(cheap, pristine, tmp_path):
    pl.read_parquet(pristine / "b" / FILES["test.parquet"]).head(0).write_parquet(tmp_path / "none.parquet")
    assert not reported(pristine, tmp_path, "test.parquet", (tmp_path / "none.parquet").read_bytes())


def test_more_rows_than_a_file_can_hold_are_not_unpacked(cheap, pristine, tmp_path):
    """Three million rows of one value are some kilobytes of parquet."""
    row = pl.read_parquet(pristine / "b" / FILES["test.parquet"]).row(0, named=True)
    file = tmp_path / "bomb.parquet"
    pl.select(pl.repeat(value, 3_000_000).alias(name) for name, value in row.items()).write_parquet(file)
    assert file.stat().st_size < 200_000
    assert not reported(pristine, tmp_path, "test.parquet", file.read_bytes())


def deep(levels):
    return b"[" * levels + b"]" * levels


@pytest.mark.sampled(13)
@pytest.mark.parametrize("name", [name for name in FILES if name != "test.parquet"])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0",
        b"\xff\xfe",
        deep(100_000),
        b'{"a":' * 100_000,
        b'{"rmse": ' + b"9" * 10_000 + b"}",
        b'{"steps_per_epoch": 0}',
        b'{"a": "\\ud800"}',
        b"[[[",
        b"{}",
        b"null",
        b"a: &x [1, 2]\nb: *x\n",
    ],
    ids=[
        "empty",
        "zero",
        "utf-16",
        "deep",
        "deep objects",
        "digits",
        "no steps",
        "surrogate",
        "cut",
        "{}",
        "null",
        "alias",
    ],
)
def test_what_is_no_such_file(cheap, pristine, tmp_path, name, content):
    if name == "metrics.jsonl" and not content:
        return  # a run without a record
    assert not reported(pristine, tmp_path, name, content)


def test_a_reference_in_a_strangers_config_fetches_nothing(cheap, pristine, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_marker")
    text = (
        (pristine / "b" / FILES["config.yaml"]).read_text().replace("optimizer: muon", "optimizer: ${oc.env:HF_TOKEN}")
    )
    assert reported(pristine, tmp_path, "config.yaml", text.encode())
    for file in (tmp_path / "out").iterdir():
        assert "hf_marker" not in file.read_text()
    assert "oc.env:HF_TOKEN" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize("name", ["prompts.json", "config.yaml"])
def test_half_of_a_character_pair(cheap, pristine, tmp_path, name):
    """In a value that is read: no report could be written with it."""
    text = (pristine / "b" / FILES[name]).read_text()
    text = text.replace('"example"', r'"exam\ud800"') if name == "prompts.json" else text + 'x: "\\ud800"\n'
    assert not reported(pristine, tmp_path, name, text.encode())


def mutated(pristine, number):
    draw = random.Random(f"runs {number}")
    name = draw.choice(sorted(FILES))
    return name, mutate((pristine / "b" / FILES[name]).read_bytes(), draw)


def test_hurt_bytes(cheap, pristine, tmp_path):
    done = [reported(pristine, tmp_path, *mutated(pristine, number)) for number in range(12)]
    assert not all(done)


@pytest.mark.slow
def test_hundreds_of_hurt_files(pristine, tmp_path, capsys):
    """MLENS_FUZZ=N: a tenth as many of them as of the sources' files (300)."""
    most = int(os.environ.get("MLENS_FUZZ", "3000")) // 10
    counts = {name: [0, 0] for name in FILES}
    for number in range(1000, 1000 + most):
        name, content = mutated(pristine, number)
        try:
            counts[name][reported(pristine, tmp_path, name, content)] += 1
        except BaseException:
            print(f"file {number}: {name}")
            raise
    with capsys.disabled():
        print()
        for name, (refused, done) in counts.items():
            print(f"  {name}: {done} reported, {refused} refused")


LEDGER = {"jobs": [{"name": "history=none", "overrides": ["history=none"], "fingerprint": "0123", "state": "finished"}]}


def ledger_of(folder: Path, content: bytes):
    """The jobs that it is read as; None where it is refused."""
    (folder / "sweep.json").write_bytes(content)
    try:
        with bounded():
            jobs = read_ledger(folder)
            Ledger(folder, [Job("history=none", ["history=none"], "0123")]).write()
    except UserError as error:
        assert is_clear(error, folder)
        return None
    assert all(isinstance(job.name, str) and isinstance(job.overrides, list) for job in jobs)
    assert [job.name for job in read_ledger(folder)].count("history=none") == 1
    return jobs


@given(data=st.data())
def test_changed_ledgers(data, tmp_path_factory):
    changed = change_a_value(data, copy.deepcopy(LEDGER))
    ledger_of(tmp_path_factory.mktemp("ledger"), json.dumps(changed).encode())


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b"null", deep(100_000), b'{"jobs": [{}]}', b'{"jobs": 9}', b"\xff"]
)
def test_what_is_no_ledger(tmp_path, content):
    assert ledger_of(tmp_path, content) is None


def test_hurt_ledgers(tmp_path):
    whole = json.dumps(LEDGER).encode()
    assert ledger_of(tmp_path, whole)
    done = [ledger_of(tmp_path, mutate(whole, random.Random(number))) for number in range(300)]
    assert None in done and any(jobs is not None for jobs in done)
