"""Runs of train.py for tests, in this process or as separate commands."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from mlens.config import Settings, check_config
from mlens.engine.stop import stoppable
from mlens.identity import Identity
from mlens.launch import register_resolvers, start

if TYPE_CHECKING:
    from mlens.pipeline import RunInputs

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
FAST = ("debug=fast",)
# An override that sets a value and chooses no file: a key with a dot is no group.
VALUE = re.compile(r"(?!hydra)(\w+(\.\w+)+|seed|output_dir|resume)=")
# The identity of a run with a tiny model on made-up data.
IDENTITY = Identity(data="data", model=None, chat_frame=None, version="1")
# Environment variables of a process group, which children must not inherit.
PROCESS_GROUP = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "DS_ACCELERATOR")


def composed(*overrides: str) -> DictConfig:
    """Return the config as train.py's main receives it, and set HydraConfig."""
    register_resolvers()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose_once("config", overrides, return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    with open_dict(config):
        del config["hydra"]
    return config


def compose_once(config_name: str | None, overrides: Sequence[str], return_hydra_config: bool = False) -> DictConfig:
    """Compose as hydra.compose does.

    Composing is slow: configs of the same choices are composed once, and values are set as Hydra sets them.
    """
    folders = str(GlobalHydra.instance().config_loader().get_search_path())
    try:
        values = OverridesParser.create().parse_overrides([word for word in overrides if VALUE.match(word)])
        if any(value.is_sweep_override() for value in values):
            raise HydraException
        config = deepcopy(_of_choices(folders, config_name, tuple(word for word in overrides if not VALUE.match(word))))
        for value in values:
            OmegaConf.update(config, value.key_or_group, value.value(), merge=True)
        with read_write(config.hydra):
            config.hydra.overrides.task = [word for word in overrides if not word.startswith("hydra")]
    except (HydraException, OmegaConfBaseException):  # Hydra's message names the config it refuses
        config = deepcopy(_of_choices(folders, config_name, tuple(overrides)))
    if not return_hydra_config:
        with open_dict(config):
            del config["hydra"]
    return config


@cache
def _of_choices(folders: str, config_name: str | None, overrides: tuple[str, ...]) -> DictConfig:
    return compose(config_name, list(overrides), return_hydra_config=True)


def checked(*overrides: str) -> Settings:
    return check_config(composed(*overrides))


def only_identity(settings: Settings) -> RunInputs:
    """Return inputs that have only settings and identity."""
    from mlens.pipeline import RunInputs  # imports torch and DeepSpeed

    return RunInputs(settings, None, None, {}, None, IDENTITY)  # type: ignore[arg-type]


@cache
def train_module():
    spec = importlib.util.spec_from_file_location("train", ROOT / "train.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # So that Hydra looks for conf/ next to the file, as when it is run as a script.
    module.main.__wrapped__.__module__ = "__main__"
    return module


def train_here(config: DictConfig) -> float | None:
    """Run train.py's main with this config in this process."""
    with stoppable() as stop:
        return train_module().run(config, stop)


def run_here(folder: Path, *overrides: str) -> dict:
    """Train a run in this process; returns its summary."""
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
    """Run `python ARGUMENTS`, with `ranks` under torchrun.

    more: additional environment variables.
    """
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
    """Run train.py as a command in `cwd`."""
    return command(str(ROOT / "train.py"), *overrides, ranks=ranks, cwd=cwd, **more)


def train_command_here(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run `python train.py ARGUMENTS` in this process, with `cwd` as working directory.

    The jobs of a sweep are separate processes.
    """
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
    """Return the `hydra` node of the config composed last."""
    return HydraConfig.get()
