"""DeepSpeed's checkpoint files: load them safely, and convert them for another number of ranks."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import torch


@contextmanager
def tensors_only() -> Iterator[None]:
    """Inside, torch.load creates tensors, plain containers and three small classes of DeepSpeed, and nothing else.

    DeepSpeed itself would let pickle do anything, which includes running code from the file.
    """
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        with torch.serialization.safe_globals([LossScaler, ZeroStageEnum, fragment_address]):
            yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def make_universal(checkpoint: Path, universal: Path) -> None:
    """Convert a ZeRO checkpoint to one that any number of ranks can load.

    See DeepSpeed's universal checkpoints, https://www.deepspeed.ai/tutorials/universal-checkpointing.

    checkpoint: of ZeRO stage 1, 2 or 3, with Adam's moments.
    universal: a new name in an empty folder, in which DeepSpeed writes another file too.
    """
    from deepspeed.checkpoint import ds_to_universal

    settings = argparse.Namespace(
        input_folder=str(checkpoint),
        output_folder=str(universal),
        num_extract_workers=1,  # in this process, under `tensors_only`
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,  # of stages 1 and 2, which were not written by Megatron
    )
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):  # nothing in its output helps the user
        ds_to_universal.main(settings)
