"""What a plan says that a run takes, against what runs took: `summary.json`'s peak_memory_bytes."""

import json
import sys
from importlib.util import find_spec

import pytest
import torch

from tests.helpers.runs import ROOT, command, summary_of, train

# 26 million parameters: enough that they, and not the program, are most of it.
SIZES = (
    "data=sample",
    "data.users=20",
    "data.ratings_per_user=30",
    "evaluation.max_users=1",
    "model=tiny",
    "model.hidden_size=512",
    "model.layers=8",
    "model.heads=8",
    "model.kv_heads=4",
    "model.head_size=64",
    "model.intermediate_size=1536",
    "prompt.max_tokens=512",
    "packing.row_tokens=512",
    "trainer.optimizer=adamw",
    "trainer.gradient_clipping=1",
    "trainer.learning_rate=1e-4",
    "trainer.max_steps=2",
    "trainer.targets_per_step=24",
    "trainer.users_per_step=8",
    "trainer.loader_workers=0",
    "wandb.mode=disabled",
)
CASES = {
    "zero0": (1, ["deepspeed=zero0"]),
    "zero1": (1, ["deepspeed=zero1"]),
    "zero2": (1, ["deepspeed=zero2"]),
    "zero3": (1, ["deepspeed=zero3"]),
    "zero2 on two ranks": (2, ["deepspeed=zero2"]),
    "zero3 on two ranks": (2, ["deepspeed=zero3"]),
    "zero2, computed again": (1, ["deepspeed=zero2", "model.gradient_checkpointing=true"]),
    "zero2 in bfloat16": (1, ["deepspeed=zero2", "model.dtype=bfloat16"]),
    "zero2 with 8-bit adamw": (1, ["deepspeed=zero2", "trainer.optimizer=adamw_8bit"]),
    "zero2 with muon": (1, ["deepspeed=zero2", "trainer.optimizer=muon", "trainer.gradient_clipping=0"]),
}


def measured(folder, ranks: int, overrides) -> int:
    result = train(*overrides, f"output_dir={folder}", ranks=ranks if ranks > 1 else 0)
    assert result.returncode == 0, result.stderr
    return summary_of(folder)["peak_memory_bytes"]


def planned(device: str, ranks: int, overrides) -> dict:
    result = command(str(ROOT / "tests" / "helpers" / "planned_memory.py"), device, str(ranks), *overrides)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_run_on_a_cpu_takes_what_was_planned(name, tmp_path):
    ranks, more = CASES[name]
    if "8-bit" in name and find_spec("bitsandbytes") is None:
        pytest.skip("needs bitsandbytes: the extra qlora")
    told, took = planned("cpu", ranks, [*SIZES, *more]), measured(tmp_path / "run", ranks, [*SIZES, *more])
    print(f"{name}: planned {told['total'] / 1e6:,.0f} MB, measured {took / 1e6:,.0f} MB", file=sys.stderr)
    assert told["total"] == pytest.approx(took, rel=0.15), told


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("checkpointing", ["false", "true"])
def test_a_run_on_a_gpu_takes_what_was_planned(stage, checkpointing, tmp_path):
    more = [f"deepspeed=zero{stage}", "model.dtype=bfloat16", f"model.gradient_checkpointing={checkpointing}"]
    told, took = planned("cuda", 1, [*SIZES, *more]), measured(tmp_path / "run", 1, [*SIZES, *more])
    assert told["total"] == pytest.approx(took, rel=0.15), told
