"""Runs of train.py for tests: composed and checked, in this process, or as commands of their own."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict

from mlens.config import Settings, check
from mlens.engine.stop import stoppable
from mlens.identity import Identity
from mlens.launch import register_resolvers
from mlens.pipeline import RunInputs

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
FAST = ("debug=fast",)
# Of a run of a tiny model on made-up data.
IDENTITY = Identity(data="data", model=None, chat_frame=None, version="1")
# What a process group of this process, or of a launcher around it, would tell a child.
PROCESS_GROUP = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "DS_ACCELERATOR")


def composed(*overrides: str) -> DictConfig:
    """The config as train.py's main gets it; HydraConfig knows of it too."""
    register_resolvers()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", list(overrides), return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    with open_dict(config):
        del config["hydra"]
    return config


def checked(*overrides: str) -> Settings:
    return check(composed(*overrides))


def only_identity(settings: Settings) -> RunInputs:
    """Inputs for what needs a run's settings and identity alone."""
    return RunInputs(settings, None, None, {}, None, IDENTITY)  # type: ignore[arg-type]


@cache
def train_module():
    spec = importlib.util.spec_from_file_location("train", ROOT / "train.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def train_here(config: DictConfig) -> float | None:
    """What train.py's main does with this config."""
    with stoppable() as stop:
        return train_module().run(config, stop)


def run_here(folder: Path, *overrides: str) -> dict:
    """A run in this process; returns its summary."""
    train_here(composed(*overrides, f"output_dir={folder}"))
    return summary_of(folder)


def summary_of(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def records_of(folder: Path, kind: str = "train") -> list[dict]:
    lines = (folder / "training_logs" / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


def child_environment(**more: str) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if name not in PROCESS_GROUP}
    return environment | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | more


def command(*arguments: str, ranks: int = 0, cwd: Path = ROOT, **more: str) -> subprocess.CompletedProcess[str]:
    """`python ARGUMENTS`, or with `ranks` the same under torchrun."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"] if ranks else []
    return subprocess.run(
        [sys.executable, *launcher, *arguments],
        cwd=cwd,
        env=child_environment(**more),
        capture_output=True,
        text=True,
        timeout=300,
    )


def train(*overrides: str, ranks: int = 0, cwd: Path = ROOT, **more: str) -> subprocess.CompletedProcess[str]:
    """train.py as a command, started in `cwd`."""
    return command(str(ROOT / "train.py"), *overrides, ranks=ranks, cwd=cwd, **more)


def hydra_config():
    """Hydra's own part of the config composed last."""
    return HydraConfig.get()
