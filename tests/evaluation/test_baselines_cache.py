"""The cache of baseline errors: each is computed once for all jobs of a sweep, by one process."""

import json
import multiprocessing
import time
from dataclasses import replace

import numpy as np
import pytest

from mlens.data.split import VAL, Split, assign_roles
from mlens.data.stage import make_stage
from mlens.evaluation import baselines
from mlens.evaluation.baselines import fit, measure_baselines
from tests.helpers.reference import make_table
from tests.helpers.shown_lists import last_visible


@pytest.fixture(autouse=True)
def without_lenskit(monkeypatch):
    monkeypatch.setattr(baselines, "lenskit_version", lambda: None)


@pytest.fixture
def fits(monkeypatch):
    """Record the roles of each fit."""
    recorded = []

    def counted(table, roles):
        recorded.append(roles)
        return fit(table, roles)

    monkeypatch.setattr(baselines, "fit", counted)
    return recorded


def made_up_table(users=6, ratings=12):
    random = np.random.default_rng(3)
    values = random.choice(np.arange(1, 11) / 2, (users, ratings))
    return make_table([[((u + m) % 9, float(values[u, m]), m) for m in range(ratings)] for u in range(users)])


def val_and_test(table, roles, count=2):
    split = Split("temporal")
    stages = {name: make_stage(table, roles, split, name) for name in ("val", "test")}
    return {name: last_visible(stage, count) for name, stage in stages.items()}


def test_cached_errors_need_no_fit(fits):
    table = made_up_table()
    roles = assign_roles(table, Split("temporal", 0.2, 0.2))
    first = measure_baselines(table, roles, val_and_test(table, roles))
    assert len(fits) == 1
    assert measure_baselines(table, roles, val_and_test(table, roles)) == first
    assert len(fits) == 1
    # Another job of a sweep: the same full histories, other histories of its strategy.
    other = measure_baselines(table, roles, val_and_test(table, roles, count=3))
    assert len(fits) == 2
    for stage in ("val", "test"):
        assert other[stage]["full_history"] == first[stage]["full_history"]
        assert other[stage]["own_history"]["biases"] != first[stage]["own_history"]["biases"]
    assert set(first) == {"val", "test"} and set(first["val"]) == {"full_history", "own_history"}
    json.dumps(first, allow_nan=False)


def test_a_strategy_history_equal_to_the_full_one_is_measured_once(fits, cache):
    table = made_up_table()
    roles = assign_roles(table, Split("temporal", 0.2, 0.2))
    stage = make_stage(table, roles, Split("temporal"), "test")
    measured = measure_baselines(table, roles, {"test": last_visible(stage, 1000)})["test"]
    assert measured["own_history"] == measured["full_history"]
    assert len([path for path in (cache / "baselines").iterdir() if path.is_dir()]) == 1


def test_another_role_or_rating_or_target_or_version_is_a_cache_miss(fits, monkeypatch):
    table = made_up_table()
    roles = assign_roles(table, Split("temporal", 0.2, 0.2))
    datasets = val_and_test(table, roles)
    first = measure_baselines(table, roles, datasets)
    changed = roles.copy()
    # The user's targets still see its first rating; only the fit doesn't.
    changed[0] = VAL
    again = measure_baselines(table, changed, datasets)
    assert len(fits) == 2 and fits[1] is changed
    assert again["test"]["full_history"]["global_mean"] != first["test"]["full_history"]["global_mean"]
    rating = np.array(table.rating)
    rating[0] = 5.5 - rating[0]
    measure_baselines(replace(table, rating=rating), roles, datasets)
    assert len(fits) == 3
    stage = datasets["test"].stage.keep(np.arange(3))
    measure_baselines(table, roles, {"test": last_visible(stage, 2)})
    assert len(fits) == 4
    monkeypatch.setattr(baselines, "VERSION", -1)
    measure_baselines(table, roles, datasets)
    monkeypatch.setattr(baselines, "lenskit_version", lambda: "1")
    # With LensKit there are more baselines.
    monkeypatch.setattr(baselines, "fit_factors", lambda *_: None)
    monkeypatch.setattr(baselines, "fit_neighbours", lambda *_: None)
    measure_baselines(table, roles, datasets)
    assert len(fits) == 6


def _measure(barrier, log, results):
    """Run in another process; each fit adds a line to the log."""
    baselines.lenskit_version = lambda: None
    baselines.fit = _logged(log)
    barrier.wait(120)
    results.put(_measured())


def _logged(log):
    def logged(table, roles):
        with log.open("a") as stream:
            stream.write("fit\n")
        time.sleep(0.5)
        return fit(table, roles)

    return logged


def _measured():
    table = made_up_table()
    roles = assign_roles(table, Split("temporal", 0.2, 0.2))
    stage = make_stage(table, roles, Split("temporal"), "test")
    return measure_baselines(table, roles, {"test": last_visible(stage, 1000)})


@pytest.mark.slow  # tests/data/test_cache.py has concurrent processes for the same lock
def test_concurrent_processes_fit_once(tmp_path, monkeypatch):
    spawn = multiprocessing.get_context("spawn")
    barrier, log, results = spawn.Barrier(2), tmp_path / "log", spawn.Queue()
    monkeypatch.setattr(baselines, "fit", _logged(log))
    process = spawn.Process(target=_measure, args=(barrier, log, results))
    process.start()
    barrier.wait(120)
    assert _measured() == results.get(timeout=120)
    process.join(60)
    assert log.read_text().splitlines() == ["fit"]
