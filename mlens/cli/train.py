"""mlens train OVERRIDES: run train.py, also from an installed mlens without a checkout."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import mlens

# In a checkout a link to train.py; in an installed mlens its file.
TRAIN = Path(mlens.__file__).with_name("train.py")


def main() -> None:
    sys.argv[0] = str(TRAIN)
    runpy.run_path(str(TRAIN), run_name="__main__")
