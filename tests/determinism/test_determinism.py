"""One result, whatever surrounds a run: processes that build rows, the form of rows, language, folder, hash seed, time
zone, threads.

What is decided before training (data, split, order of targets, drawn histories, prompts, tokens, rows) is equal bit for
bit; so are losses and predictions with any number of loader workers. Rows of another size, or without sharing, add the
same numbers in another order: equal to the rounding of float32.
"""

import json
import shutil
import subprocess
import sys

import numpy as np
import polars as pl
import pytest

from tests.helpers.digests import write_sources
from tests.helpers.runs import FAST, ROOT, child_environment, records_of, run_here, summary_of, train

# What would be an accident of the machine: nothing of it is in `PLAIN`, all of it at once in `OTHER`.
PLAIN = {
    "LC_ALL": "C.UTF-8",
    "PYTHONHASHSEED": "0",
    "TZ": "UTC",
    "POLARS_MAX_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
}
# Text files are ASCII to a Python that is told no encoding.
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
OTHER = {
    **ASCII,
    "PYTHONHASHSEED": "1",
    "TZ": "Asia/Kathmandu",
    "POLARS_MAX_THREADS": "2",
    "OMP_NUM_THREADS": "2",
    "RAYON_NUM_THREADS": "2",
}
# Single changes of `PLAIN`.
CHANGES = {
    "hash seed 1": {"PYTHONHASHSEED": "1"},
    "hash seed random": {"PYTHONHASHSEED": "random"},
    "no encoding": ASCII,
    "time zone": {"TZ": "America/St_Johns"},
    "threads": {"POLARS_MAX_THREADS": "2", "OMP_NUM_THREADS": "2", "RAYON_NUM_THREADS": "2"},
    "optimised": {"PYTHONOPTIMIZE": "1"},
}
# Of losses, relative, and of expected ratings in stars: measured, 1e-7 and 1e-6.
LOSS, STARS = 2e-6, 2e-5


# Before training


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    write_sources(folder)
    return folder


def start_digests(sources, cwd, environment, python=sys.executable):
    """`digests.py` with a cache of its own, started in `cwd`."""
    cwd.mkdir()
    own = {"MLENS_CACHE": str(cwd / "cache")}
    kept = {name: value for name, value in child_environment().items() if not name.startswith(("LC_", "LANG"))}
    return subprocess.Popen(
        [python, "-m", "tests.helpers.digests", str(sources)],
        cwd=cwd,
        env=kept | PLAIN | environment | own,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def answer(process):
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors.decode("utf-8", "replace")
    return json.loads(output)


@pytest.mark.slow
def test_nothing_of_the_surroundings_is_in_what_a_run_decides(sources, tmp_path):
    started = [start_digests(sources, tmp_path / name, more) for name, more in (("plain", {}), ("other", OTHER))]
    plain, other = map(answer, started)
    assert len(plain) > 200
    assert {name for name in plain if plain[name] != other.get(name)} == set()


@pytest.fixture(scope="module")
def plain(sources, tmp_path_factory):
    return answer(start_digests(sources, tmp_path_factory.mktemp("plain") / "here", {}))


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
def test_a_single_change_of_the_surroundings(sources, plain, tmp_path, change):
    assert answer(start_digests(sources, tmp_path / "here", CHANGES[change])) == plain


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tr_TR.UTF-8", "tr_TR.ISO-8859-9", "de_DE.UTF-8", "de_DE.ISO-8859-1", "ja_JP.EUC-JP"])
def test_another_language(sources, plain, tmp_path, name):
    """Dotted and dotless i, decimal commas, encodings that aren't UTF-8."""
    assert answer(start_digests(sources, tmp_path / "here", language(name, tmp_path))) == plain


def language(name, folder) -> dict[str, str]:
    """The environment in which this locale is used; it is made here, from the system's descriptions."""
    if shutil.which("localedef") is None:
        pytest.skip("there is no localedef to make the locale with")
    place, _, encoding = name.partition(".")
    made = subprocess.run(
        ["localedef", "-i", place, "-f", encoding, str(folder / name)], capture_output=True, text=True
    )
    if not (folder / name).is_dir():
        pytest.skip(f"the locale can't be made here: {made.stderr.strip()}")
    return {"LOCPATH": str(folder), "LC_ALL": name, "PYTHONUTF8": "0"}


# Training


def results_of(folder):
    """Losses of every step, and predictions."""
    return [record["loss"] for record in records_of(folder)], {
        name: pl.read_parquet(folder / "predictions" / f"{name}.parquet") for name in ("val", "test")
    }


@pytest.fixture(scope="module", params=["random", pytest.param("all_previous", marks=pytest.mark.slow)])
def usual(request, tmp_path_factory):
    """(overrides, losses, predictions) of a run without workers, with rows of 1,024 tokens that share."""
    overrides = (*FAST, f"history={request.param}")
    folder = tmp_path_factory.mktemp("usual") / "run"
    run_here(folder, *overrides)
    return overrides, *results_of(folder)


def check_equal(usual, folder, *more):
    overrides, losses, predictions = usual
    run_here(folder, *overrides, *more)
    own_losses, own_predictions = results_of(folder)
    assert own_losses == losses
    assert all(own_predictions[name].equals(predictions[name]) for name in predictions)


def check_close(usual, folder, *more):
    overrides, losses, predictions = usual
    run_here(folder, *overrides, *more)
    own_losses, own_predictions = results_of(folder)
    assert own_losses == pytest.approx(losses, rel=LOSS)
    for name, frame in predictions.items():
        own = own_predictions[name]
        told = ["user", "movie", "t", "rating", "history_used", "history_dropped", "history_hash"]
        assert own.select(told).equals(frame.select(told))
        for column in ("expected", *(column for column in frame.columns if column.startswith("p_"))):
            assert np.abs(own[column].to_numpy() - frame[column].to_numpy()).max() < STARS


@pytest.mark.slow
def test_four_loader_workers_change_no_bit(usual, tmp_path):
    check_equal(usual, tmp_path / "run", "trainer.loader_workers=4")


def test_other_rows_change_rounding_alone(usual, tmp_path):
    check_close(usual, tmp_path / "run", "packing.row_tokens=8192", "packing.share=never")


@pytest.mark.slow
def test_one_loader_worker_changes_no_bit(usual, tmp_path):
    check_equal(usual, tmp_path / "run", "trainer.loader_workers=1")


@pytest.mark.slow
@pytest.mark.parametrize("row_tokens", [512, 700, 3000, 100_000])
@pytest.mark.parametrize("share", ["auto", "never"])
def test_rows_of_any_size_change_rounding_alone(usual, tmp_path, row_tokens, share):
    check_close(usual, tmp_path / "run", f"packing.row_tokens={row_tokens}", f"packing.share={share}")


@pytest.mark.slow
def test_a_whole_run_elsewhere_gives_the_same(tmp_path):
    """train.py itself, with all of `OTHER` but the threads, which add in another order, and in Turkish: PyTorch's own
    files can't be read as ASCII."""
    others = {name: value for name, value in OTHER.items() if name not in ASCII and not name.endswith("_THREADS")}
    others |= language("tr_TR.ISO-8859-9", tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    places = {"plain": (ROOT, PLAIN), "other": (elsewhere, PLAIN | others)}
    for name, (cwd, environment) in places.items():
        own = environment | {"MLENS_CACHE": str(tmp_path / f"cache {name}")}
        ended = train(*FAST, "history=random", f"output_dir={tmp_path / name}", cwd=cwd, **own)
        assert ended.returncode == 0, ended.stderr
    (losses, predictions), (other_losses, other_predictions) = (results_of(tmp_path / name) for name in places)
    assert losses == other_losses
    assert all(predictions[name].equals(other_predictions[name]) for name in predictions)
    first, second = (summary_of(tmp_path / name) for name in places)
    assert first["fingerprint"] == second["fingerprint"]
    assert first["metrics"] == second["metrics"] and first["baselines"] == second["baselines"]
