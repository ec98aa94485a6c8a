"""Everything that needs a GPU, in one command of at most eight minutes on one GPU, and one table of what came out.

    python benchmarks/gpu_checks.py --data DIR [--out FOLDER]                  DIR: the folder of ml-latest-small
    python benchmarks/gpu_checks.py --data DIR --anywhere                      small, to test the program on a CPU

The checks, each in a process of its own, in this order:

- the tests with the marker `gpu`;
- a run of 200 steps from the tiny base model (each run first compares packed rows with plain forward passes);
- a run with LoRA, in bfloat16;
- a run that is stopped, and resumed;
- a run under torchrun with one rank, so under NCCL;
- benchmarks/gpu.py: shared rows, unshared rows and Hugging Face's Trainer with the sizes of Qwen3-0.6B.

A check that fails or takes too long is reported in the table, and the others go on; the exit code is then 1. FOLDER
(gpu_checks) keeps the output of each, and the table as table.md.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import mlens  # noqa: F401  before torch, which reads how threads wait

# isort: split
import torch
from setting import command, console, start

from mlens.errors import RunFailed, UserError

ROOT = Path(__file__).resolve().parents[1]
# On a CPU, where only the program itself is tested.
SMALL = ("debug=fast",)
SMALL_QWEN3 = (
    *("model.layers=2", "model.hidden_size=64", "model.heads=2", "model.kv_heads=1", "model.head_size=32"),
    *("model.intermediate_size=128", "model.dtype=float32", "prompt.max_tokens=256", "packing.row_tokens=1024"),
)
# Steps between the checkpoints of the run that is stopped: it gets its signal after the first.
STOPPED_AFTER = 20


@dataclass(frozen=True)
class Check:
    """One check.

    name: in the table.
    seconds: the most that it may take.
    run: does it, given a function that runs a command, and returns what the table says of it.
    """

    name: str
    seconds: float
    run: Callable[[Session], str]


@dataclass(frozen=True)
class Session:
    """What the checks share.

    data: the folder of ml-latest-small.
    folder: of this check's output.
    small: whether everything is small, to test the program.
    until: when the check must be done, as time.monotonic() tells it.
    """

    data: Path
    folder: Path
    small: bool
    until: float

    def call(self, *words: str) -> str:
        """Run a command of this environment's Python to its end, and return its output.

        Raises RunFailed where it fails, or isn't done in time.
        """
        with (self.folder / "output.txt").open("a+") as output:
            began = output.tell()
            try:
                done = subprocess.run(
                    [sys.executable, *words],
                    cwd=ROOT,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    timeout=max(1.0, self.until - time.monotonic()),
                )
            except subprocess.TimeoutExpired as error:
                raise RunFailed("not done in time") from error
            output.seek(began)
            text = output.read()
        if done.returncode:
            lines = text.strip().splitlines() or ["no output"]
            said = next((line for line in lines if line.startswith("error: ")), lines[-1])
            raise RunFailed(f"exit code {done.returncode}: {said}")
        return text

    def overrides(self, *overrides: str) -> list[str]:
        """Return train.py's overrides for a run of this check."""
        data = ["data=ml_latest_small", f"data.path={self.data}"]
        run = ["wandb.mode=disabled", f"output_dir={self.folder / 'run'}", "evaluation.max_users=50"]
        return [*data, *run, *overrides, *(SMALL if self.small else ())]

    def train(self, *overrides: str, launcher: Sequence[str] = ()) -> str:
        """Train, and return what the table says of the run."""
        self.call(*launcher, str(ROOT / "train.py"), *self.overrides(*overrides))
        summary = json.loads((self.folder / "run" / "summary.json").read_text(encoding="utf-8"))
        training, seconds = summary["training"], summary["seconds"]["training"]
        return (
            f"{training['step']} steps, {training['targets'] / max(seconds, 1e-9):,.0f} targets/s, test RMSE "
            f"{summary['metrics']['test']['rmse']:.4f}"
        )


def gpu_tests(session: Session) -> str:
    words = ("-m", "pytest", "-q", "-m", "gpu", "tests/model", "tests/plan")
    return session.call(*words).strip().splitlines()[-1].strip("= ")


def tiny_base(session: Session) -> str:
    steps = ("trainer.max_steps=200", "trainer.validate_every_steps=100")
    return session.train("model=tiny_base", f"model.base.steps={2 if session.small else 100}", *steps)


def lora(session: Session) -> str:
    steps = ("trainer=from_scratch", "trainer.optimizer=adamw", "trainer.learning_rate=0.001", "trainer.max_steps=50")
    return session.train("model=tiny", "peft=lora", "model.dtype=bfloat16", *steps)


def resumed(session: Session) -> str:
    steps = [f"trainer.checkpoint.every_steps={STOPPED_AFTER}", "trainer.max_steps=200"]
    if session.small:
        steps = ["trainer.checkpoint.every_steps=1"]
    words = session.overrides("model=tiny", *steps)
    checkpoints = session.folder / "run" / "checkpoints"
    with (session.folder / "output.txt").open("a") as output:
        run = subprocess.Popen(
            [sys.executable, str(ROOT / "train.py"), *words], cwd=ROOT, stdout=output, stderr=subprocess.STDOUT
        )
        while not (checkpoints / "last").exists():
            if run.poll() is not None or time.monotonic() > session.until:
                run.kill()
                raise RunFailed("no checkpoint was written")
            time.sleep(0.02)
        run.send_signal(signal.SIGTERM)
        run.wait()
    stopped = not (session.folder / "run" / "summary.json").exists()
    return ("stopped and resumed: " if stopped else "ended before it could be stopped: ") + session.train(
        "model=tiny", *steps, "resume=auto"
    )


def one_rank(session: Session) -> str:
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=1")
    return session.train("model=tiny", "trainer.max_steps=50", launcher=launcher)


def benchmark(session: Session) -> str:
    small = ("--anywhere", *SMALL_QWEN3) if session.small else ()
    text = session.call(str(ROOT / "benchmarks" / "gpu.py"), "--data", str(session.data), *small)
    (session.folder / "table.txt").write_text(text)
    return "see the table below"


CHECKS = (
    Check("tests marked gpu", 90, gpu_tests),
    Check("200 steps from the tiny base", 80, tiny_base),
    Check("LoRA, bfloat16", 40, lora),
    Check("stopped and resumed", 50, resumed),
    Check("one rank under torchrun", 40, one_rank),
    Check("benchmarks/gpu.py", 180, benchmark),
)


def main(options: argparse.Namespace) -> None:
    if not torch.cuda.is_available() and not options.anywhere:
        raise UserError("there is no CUDA device: benchmarks/gpu_checks.py was not run")
    if options.out.exists():
        raise UserError(f"{options.out} exists: give another folder with --out")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"a CPU with {os.cpu_count()} cores"
    lines = [f"On {device}, torch {torch.__version__}:", "", "| check | result | seconds |", "|---|---|---|"]
    failed = []
    for number, check in enumerate(CHECKS, 1):
        folder = options.out.resolve() / f"{number}_{check.run.__name__}"
        folder.mkdir(parents=True)
        console().print(f"{check.name} …", highlight=False)
        began = time.monotonic()
        try:
            limit = check.seconds * (5 if options.anywhere else 1)
            result = check.run(Session(options.data, folder, options.anywhere, began + limit))
        except RunFailed as error:
            failed.append(check.name)
            result = f"FAILED: {error}"
        lines.append(f"| {check.name} | {result} | {time.monotonic() - began:.0f} |")
    measured = options.out / f"{len(CHECKS)}_{benchmark.__name__}" / "table.txt"
    text = "\n".join(lines) + "\n" + (f"\n```\n{measured.read_text().strip()}\n```\n" if measured.exists() else "")
    (options.out / "table.md").write_text(text, encoding="utf-8")
    console().print(text, markup=False, highlight=False, soft_wrap=True)
    if failed:
        raise RunFailed(f"failed: {', '.join(failed)}; see {options.out}")


if __name__ == "__main__":
    parser = command(__doc__)
    parser.add_argument("--out", type=Path, default=Path("gpu_checks"), metavar="FOLDER", help="a new folder")
    parser.add_argument("--anywhere", action="store_true", help="small, without a GPU, to test the program")
    start(main, parser, gpu=True)
