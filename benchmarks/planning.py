"""Time and memory to read, open and plan a table of the size of ml-32m on one core.

    python benchmarks/planning.py                                    makes the data in a temporary folder
    python benchmarks/planning.py --folder DIR                       keeps data and cache there for the next run
    python benchmarks/planning.py --ratings 1e6 --users 7e3 --movies 9e3

Makes ratings.csv, movies.csv and tags.csv of the format and size of ml-32m (32 million ratings of 200,000 users, who
have at least 20 ratings and some of them thousands, many in one second), and measures, each in a separate process on
one core:

- the time of polars to read ratings.csv into memory, and of mlens to read, check and sort it (at most 3 times that);
- the time to open the cached table (below 1 s);
- for every strategy except random per target, which is drawn while training, all steps from the opened table to the
  planned epoch: split, targets, pieces of text, histories within the budget of all training, validation and test
  targets with their lengths and prefix groups, and the order of the epoch (at most 60 s, 4 GiB).

Seconds are CPU time, except for opening, which is wall-clock time. The data take 1 GB and the cache another 1 GB; about
ten minutes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

LEAST, MOST = 20, 8000  # ratings of a user
USERS_AT_ONCE = 10_000
STRATEGIES = ("none", "all_previous", "fixed_ratio", "fixed_count", "random history.draw=per_user")
ONE_CORE = ("OMP_NUM_THREADS", "POLARS_MAX_THREADS", "RAYON_NUM_THREADS")


# The jobs of the child processes. Each returns the seconds of its steps.


def make(folder: Path, ratings: int, users: int, movies: int) -> dict[str, float]:
    """Write ratings.csv, movies.csv and tags.csv of these sizes."""
    import numpy as np
    import polars as pl

    from mlens.data.sample_words import ADJECTIVES, GENRES, NOUNS

    if movies < 9 * MOST // 8:
        raise SystemExit(f"--movies must be at least {9 * MOST // 8:,}: the most active users rate {MOST:,} of them")
    random = np.random.default_rng(0)
    sizes = _activity(random, ratings, users)
    ids = np.sort(random.choice(4 * movies, movies, replace=False)) + 1
    by_popularity = random.permutation(movies)
    with (folder / "ratings.csv").open("wb") as file:
        for first in range(0, users, USERS_AT_ONCE):
            n = sizes[first : first + USERS_AT_ONCE]
            user = np.repeat(np.arange(len(n)), n)
            place = np.arange(len(user)) - np.repeat(np.cumsum(n) - n, n)
            # Distinct movies: popular ones densely, the others sparsely.
            rank = place + ((movies - n[user]) * ((place + random.random(len(user))) / n[user]) ** 3).astype(np.int64)
            movie = by_popularity[rank]
            # A few dozen ratings per evening, several of them in one second.
            evening = random.integers(0, 1 + n[user] // 40)
            joined, pause = (
                random.integers(800_000_000, 1_500_000_000, len(n)),
                random.integers(10_000, 1_000_000, len(n)),
            )
            time = joined[user] + evening * pause[user] + 3 * random.integers(0, 200, len(user))
            rating = np.clip(np.rint(random.normal(7, 2, len(user))), 1, 10) / 2
            order = np.lexsort((movie, user))
            frame = {"userId": first + 1 + user, "movieId": ids[movie], "rating": rating, "timestamp": time}
            pl.DataFrame({name: column[order] for name, column in frame.items()}).write_csv(
                file, include_header=first == 0, float_precision=1
            )
    phrases = itertools.cycle(itertools.product(ADJECTIVES, NOUNS, NOUNS))
    titles = [f"{a} {b} of the {c} ({1920 + i % 104})" for i, (a, b, c) in zip(range(movies), phrases, strict=False)]
    genres = ["|".join(GENRES[i * k % len(GENRES)] for k in range(1, 2 + i % 3)) for i in range(movies)]
    pl.DataFrame({"movieId": ids, "title": titles, "genres": genres}).write_csv(folder / "movies.csv")
    n = ratings // 16
    tags = {
        "userId": np.sort(random.integers(0, -(-users // 13), n)) * 13 + 1,
        "movieId": ids[random.integers(0, movies, n)],
        "tag": [f"tag {i}" for i in random.integers(0, 1 + n // 20, n)],
        "timestamp": random.integers(1_100_000_000, 1_600_000_000, n),
    }
    pl.DataFrame(tags).write_csv(folder / "tags.csv")
    return {}


def _activity(random, ratings: int, users: int):
    """Draw the number of ratings of each user, LEAST plus a lognormal number up to MOST, `ratings` in sum: [users]."""
    import numpy as np

    if not LEAST * users <= ratings <= MOST * users // 4:
        raise SystemExit(f"--ratings must be between {LEAST} and {MOST // 4} times --users")
    weight = random.lognormal(sigma=1.45, size=users)
    low, high = 0.0, float(ratings)
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        few = np.minimum(LEAST + (middle * weight).astype(np.int64), MOST).sum() <= ratings
        low, high = (middle, high) if few else (low, middle)
    sizes = np.minimum(LEAST + (low * weight).astype(np.int64), MOST)
    for _ in range(ratings - int(sizes.sum())):
        sizes[random.integers(users)] += 1
    return sizes


def polars(folder: Path) -> dict[str, float]:
    import polars as pl

    with timed() as seconds:
        frame = pl.read_csv(folder / "ratings.csv")
    assert frame.width == 4
    return {"read": seconds()}


def read(folder: Path, source: str) -> dict[str, float]:
    from mlens.data.csv_ratings import CsvRatings
    from mlens.data.movielens_csv import MovieLensCsv
    from mlens.data.raw import build_table
    from mlens.data.sources import Source

    files = [folder / "ratings.csv", folder / "movies.csv"]
    csv = CsvRatings(user_column="userId", movie_column="movieId")
    reader: Source = MovieLensCsv("ml-32m") if source == "ml_32m" else csv
    with timed() as seconds:
        build_table(reader.read(files))
    return {"read": seconds()}


def open_cached(folder: Path) -> dict[str, float]:
    from mlens.data.movielens_csv import MovieLensCsv
    from mlens.data.sources import load_table

    with timed(time.perf_counter) as seconds:
        table = load_table(MovieLensCsv("ml-32m", str(folder)))
    assert len(table.user_offsets) == len(table.users) + 1
    return {"open": seconds()}


def plan(folder: Path, *overrides: str) -> dict[str, float]:
    import numpy as np

    from mlens.compose import compose_config
    from mlens.config import check_config
    from mlens.packing.epoch_plan import epoch_order
    from mlens.pipeline import open_inputs

    settings = check_config(compose_config(["data=ml_32m", f"data.path={folder}", *overrides]))
    steps = {}
    with timed() as seconds:
        inputs = open_inputs(settings)
    steps["split"] = seconds()
    with timed() as seconds:
        inputs.renderer  # noqa: B018
    steps["pieces"] = seconds()
    with timed() as seconds:
        datasets = {name: inputs.dataset(name) for name in inputs.stages}
    steps["histories"] = seconds()
    with timed() as seconds:
        for dataset in datasets.values():
            targets = np.arange(len(dataset))
            for measure in (dataset.histories.section_lengths, dataset.prefix_groups):
                assert len(measure(targets)) == len(dataset)
    steps["lengths"] = seconds()
    with timed() as seconds:
        order = epoch_order(datasets["train"], settings.trainer.steps(), settings.seed, epoch=0)
    steps["order"] = seconds()
    assert len(order) == len(datasets["train"])
    return steps


@contextmanager
def timed(clock: Callable[[], float] = time.process_time) -> Iterator[Callable[[], float]]:
    """Yield a function that returns the seconds of the block once it has ended."""
    start = clock()
    took: list[float] = []
    yield lambda: took[0]
    took.append(clock() - start)


JOBS: dict[str, Callable[..., dict[str, float]]] = {
    job.__name__: job for job in (make, polars, read, open_cached, plan)
}


# The parent process.


def child(cache: Path, job: str, *arguments: object) -> tuple[dict[str, float], float]:
    """Run a job in a separate process; returns the seconds of its steps, and its peak memory in GiB."""
    command = [sys.executable, __file__, "--job", job, *map(str, arguments)]
    env = os.environ | dict.fromkeys(ONE_CORE, "1") | {"TOKENIZERS_PARALLELISM": "false", "MLENS_CACHE": str(cache)}
    run = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=False)
    if run.returncode:
        raise SystemExit(run.returncode)
    steps, memory = json.loads(run.stdout.splitlines()[-1])
    return steps, memory


def run_job(job: str, *arguments: str) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    folder, *rest = arguments
    steps = make(Path(folder), *map(int, rest)) if job == "make" else JOBS[job](Path(folder), *rest)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** (30 if sys.platform == "darwin" else 20)
    print(json.dumps([steps, peak]))


def measure(folder: Path, ratings: int, users: int, movies: int) -> None:
    from rich.console import Console
    from rich.table import Table

    def cell(value: float, most: float, digits: int = 1) -> str:
        return f"{value:.{digits}f}" if value <= most else f"[red]{value:.{digits}f}[/red]"

    console, cache = Console(width=120), folder / "cache"
    data = folder / f"{ratings}-{users}-{movies}"
    if not (data / "tags.csv").is_file():
        data.mkdir(parents=True, exist_ok=True)
        child(cache, "make", data, ratings, users, movies)

    polars_steps, memory = child(cache, "polars", data)
    table = Table("ratings.csv on one core", "seconds", "times polars", "at most", "peak GiB")
    table.add_row("polars reads it", f"{polars_steps['read']:.1f}", "1.0", "", f"{memory:.1f}")
    for source in ("ml_32m", "csv"):
        steps, memory = child(cache, "read", data, source)
        times = cell(steps["read"] / polars_steps["read"], 3)
        table.add_row(f"data={source} reads and sorts it", f"{steps['read']:.1f}", times, "3.0", f"{memory:.1f}")
    console.print(table)

    # The first call fills the cache. The second stores the digests of files that were too new at the first.
    opened = [child(cache, "open_cached", data)[0]["open"] for _ in range(3)][-1]
    console.print(f"The cached table opens in {cell(opened, 1, digits=2)} seconds (at most 1).\n")

    table = Table("history", "trim", title=f"{ratings:,} ratings planned on one core: seconds (at most 60), GiB (4)")
    for column in ("split", "pieces", "histories", "lengths", "order", "all", "peak GiB"):
        table.add_column(column, justify="right")
    for strategy in STRATEGIES:
        for trim in ("strided", "exact"):
            if trim == "exact" and strategy.startswith(("none", "random")):
                continue  # the same as strided
            steps, memory = child(cache, "plan", data, *f"prompt.trim={trim} history={strategy}".split())
            seconds = [f"{value:.1f}" for value in steps.values()]
            table.add_row(
                strategy.replace("history.", ""), trim, *seconds, cell(sum(steps.values()), 60), cell(memory, 4)
            )
    console.print(table)


def main() -> None:
    if sys.argv[1:2] == ["--job"]:
        run_job(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("ratings", 32e6), ("users", 200e3), ("movies", 85e3)):
        parser.add_argument(f"--{name}", type=float, default=default, help=f"the number of {name} ({default:,.0f})")
    parser.add_argument("--folder", type=Path, help="the folder of data and cache (a temporary folder)")
    options = parser.parse_args()
    size = int(options.ratings), int(options.users), int(options.movies)
    if options.folder is not None:
        measure(options.folder.resolve(), *size)
        return
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), *size)


if __name__ == "__main__":
    main()
