"""Runs of train.py for tests: composed and checked, in this process, or as commands of their own."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import re
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from copy import deepcopy
from functools import cache
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict, read_write

from mlens.config import Settings, check_config
from mlens.engine.stop import stoppable
from mlens.identity import Identity
from mlens.launch import register_resolvers, start
from mlens.pipeline import RunInputs

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
FAST = ("debug=fast",)
# Stands for the output_dir of any run.
ANY_FOLDER = "output_dir=/any/folder"
# Of a run of a tiny model on made-up data.
IDENTITY = Identity(data="data", model=None, chat_frame=None, version="1")
# What a process group of this process, or of a launcher around it, would tell a child.
PROCESS_GROUP = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "DS_ACCELERATOR")


def composed(*overrides: str) -> DictConfig:
    """The config as train.py's main gets it; HydraConfig knows of it too. What differs in output_dir alone is composed
    once: that takes Hydra long."""
    folders = [override for override in overrides if re.fullmatch(r"output_dir=/[\w/.-]+", override)]
    folder = folders[0] if len(folders) == 1 else ANY_FOLDER
    config = deepcopy(_composed(CONF, tuple(ANY_FOLDER if override == folder else override for override in overrides)))
    if folders and folder != ANY_FOLDER:
        with read_write(config.hydra):
            config.output_dir = folder.removeprefix("output_dir=")
            config.hydra.overrides.task = [*overrides]
            config.hydra.job.override_dirname = config.hydra.job.override_dirname.replace(ANY_FOLDER, folder)
    HydraConfig.instance().set_config(config)
    with open_dict(config):
        del config["hydra"]
    return config


@cache
def _composed(conf: Path, overrides: tuple[str, ...]) -> DictConfig:
    register_resolvers()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf), version_base="1.3"):
        return compose("config", list(overrides), return_hydra_config=True)


def checked(*overrides: str) -> Settings:
    return check_config(composed(*overrides))


def only_identity(settings: Settings) -> RunInputs:
    """Inputs for what needs a run's settings and identity alone."""
    return RunInputs(settings, None, None, {}, None, IDENTITY)  # type: ignore[arg-type]


@cache
def train_module():
    spec = importlib.util.spec_from_file_location("train", ROOT / "train.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # Hydra looks for conf/ beside the file, as it does where the file is started.
    module.main.__wrapped__.__module__ = "__main__"
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


def train_command_here(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """What `python train.py ARGUMENTS`, started in `cwd`, does; in this process (the jobs of a sweep are others)."""
    words = [str(ROOT / "train.py"), *arguments]
    out, err = io.StringIO(), io.StringIO()
    GlobalHydra.instance().clear()
    with pytest.MonkeyPatch.context() as patched, redirect_stdout(out), redirect_stderr(err):
        patched.chdir(cwd)
        patched.setattr(sys, "argv", words)
        try:
            start(train_module().main)
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


def hydra_config():
    """Hydra's own part of the config composed last."""
    return HydraConfig.get()
