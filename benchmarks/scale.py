"""Time and peak memory of each stage of a complete run at the size of ml-32m.

    python benchmarks/scale.py                                       makes the data in a temporary folder
    python benchmarks/scale.py --folder DIR                          keeps data and cache there for the next run
    python benchmarks/scale.py --ratings 1e6 --users 7e3 --movies 9e3 history=fixed_count
    python benchmarks/scale.py --json 1.2                            reads a behaviour_json file of 1.2 GB instead

The data are those of benchmarks/planning.py: 32 million made-up ratings in the format of ml-32m. Runs train.py with
model=tiny, 100 steps, and the evaluation of 200 users; further overrides may follow. A stage is one of the functions
that train.py calls. Peak memory is the resident set of the process, mapped files included (the kernel's VmHWM, which is
reset before each stage; Linux only). The last line is the peak of its worker process.

About 20 minutes and 3 GB of disk; --json takes about 15 minutes and as much disk as the file.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import planning

ROOT = Path(__file__).parents[1]
# The functions that train.py calls, in their order.
STAGES = {
    "mlens.data.sources.load_table": "read, check, sort, cache",
    "mlens.data.split.assign_roles": "split",
    "mlens.data.stage.make_stages": "targets",
    "mlens.model.load.load_tokenizer": "tokenizer",
    "mlens.prompt.renderer.make_renderer": "pieces",
    "mlens.audit.audit.audit": "leak audit",
    "mlens.engine.engine.make_engine": "engine",
    "mlens.training.describe.describe_run": "lengths, log",
    "mlens.training.loop.fit": "training, validation",
    "mlens.training.finish.finish_run": "test, baselines",
}


@dataclass
class Meter:
    """Measures the seconds and the peak memory (GiB) of functions.

    stages: (name, seconds, peak memory) of each call.
    """

    stages: list[tuple[str, float, float]] = field(default_factory=list)

    def patch(self, path: str, name: str) -> None:
        """Measure later calls of the function at this path, except from modules that have already imported it."""
        module, _, attribute = path.rpartition(".")
        patched = importlib.import_module(module)
        setattr(patched, attribute, self._measured(getattr(patched, attribute), name))

    def _measured(self, function: Callable, name: str) -> Callable:
        def measured(*args, **kwargs):
            Path("/proc/self/clear_refs").write_text("5")
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.stages.append((name, time.perf_counter() - began, _peak_gib()))

        return measured


def _peak_gib() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    (peak,) = [line for line in lines if line.startswith("VmHWM")]
    return int(peak.split()[1]) / 2**20


def train(overrides: list[str]) -> list[tuple[str, float, float]]:
    """Run train.py with these overrides in this process; returns its stages."""
    meter = Meter()
    for path, name in STAGES.items():
        meter.patch(path, name)
    sys.argv = ["train.py", *overrides]
    runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
    worker = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    return [*meter.stages, ("a worker process", 0.0, worker)]


def write_json(file: Path, gigabytes: float) -> None:
    """Write a list of users as in the guide's example, with about a hundred ratings each, of 20,000 movies."""
    import numpy as np

    random, written, user = np.random.default_rng(0), 0, 0
    with file.open("w", encoding="utf-8") as stream:
        stream.write("[")
        while written < gigabytes * 1e9:
            films = random.integers(0, 20_000, random.integers(20, 200))
            data = [
                {
                    "context": [],
                    "continuation": f"{random.integers(1, 11) / 2:.1f}",
                    "continuation_prefix": f"The Film Number {film} (19{film % 100:02d}) (Action, Comedy, Drama): ",
                    "timestamp": 1_000_000_000 + 60 * n,
                }
                for n, film in enumerate(films)
            ]
            collections = [{"type": "movie_rating", "data": data}]
            profile = {"name": f"name {user}", "city": "Bern"}
            task = {"description": "Say what this user thinks.", "task_behavior_collections": collections}
            record = {"user_hash": f"u{user}", "user": {"profile": profile}, "task": task}
            written += stream.write(("," if user else "") + json.dumps(record))
            user += 1
        stream.write("]")


def read_json(file: Path) -> list[tuple[str, float, float]]:
    from mlens.data.behaviour_json import BehaviourJson

    meter = Meter()
    meter.patch("mlens.data.sources.load_table", "read, check, sort, cache")
    load = importlib.import_module("mlens.data.sources").load_table
    table = load(BehaviourJson(str(file)))
    print(
        f"{len(table):,} ratings of {len(table.users):,} users in {file.stat().st_size / 1e9:.2f} GB", file=sys.stderr
    )
    return meter.stages


def child(job: str, arguments: list[str], cache: Path) -> list[tuple[str, float, float]]:
    """Run a job in a separate process, which writes its stages to a file; returns the stages."""
    with tempfile.NamedTemporaryFile(suffix=".json") as result:
        command = [sys.executable, __file__, "--job", result.name, job, *arguments]
        run = subprocess.run(command, env=os.environ | {"MLENS_CACHE": str(cache)}, check=False)
        if run.returncode:
            raise SystemExit(run.returncode)
        return json.loads(Path(result.name).read_text())


def measure(options: argparse.Namespace, folder: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    cache = folder / "cache"
    if options.json:
        file = folder / f"users-{options.json:g}.json"
        if not file.is_file():
            write_json(file, options.json)
        stages = child("json", [str(file)], cache)
    else:
        size = int(options.ratings), int(options.users), int(options.movies)
        data = folder / "-".join(map(str, size))
        if not (data / "tags.csv").is_file():
            data.mkdir(parents=True, exist_ok=True)
            planning.child(cache, "make", data, *size)
        with tempfile.TemporaryDirectory() as run:
            common = ["data=ml_32m", f"data.path={data}", f"output_dir={run}/run", "wandb.mode=disabled"]
            limits = ["trainer.max_steps=100", "evaluation.max_users=200"]
            stages = child("train", [*common, *limits, *options.overrides], cache)
    table = Table("stage")
    for column in ("seconds", "peak GiB"):
        table.add_column(column, justify="right")
    for name, seconds, peak in stages:
        table.add_row(name, f"{seconds:,.1f}" if seconds else "", f"{peak:.2f}")
    Console().print(table)


def main() -> None:
    if sys.argv[1:2] == ["--job"]:
        result, job, *arguments = sys.argv[2:]
        stages = train(arguments) if job == "train" else read_json(Path(arguments[0]))
        Path(result).write_text(json.dumps(stages))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("ratings", 32e6), ("users", 200e3), ("movies", 85e3)):
        parser.add_argument(f"--{name}", type=float, default=default, help=f"the number of {name} ({default:,.0f})")
    parser.add_argument("--folder", type=Path, help="the folder of data and cache (a temporary folder)")
    parser.add_argument("--json", type=float, metavar="GB", help="read a behaviour_json file of this size instead")
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="overrides of train.py")
    options = parser.parse_intermixed_args()
    if options.folder is not None:
        options.folder.mkdir(parents=True, exist_ok=True)
        measure(options, options.folder.resolve())
        return
    with tempfile.TemporaryDirectory() as folder:
        measure(options, Path(folder))


if __name__ == "__main__":
    main()
