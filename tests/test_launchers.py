"""train.py under launchers other than torchrun: two processes on this machine."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.runs import ROOT, child_environment, summary_of


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher",
    [
        "accelerate launch --multi_gpu --num_processes 2",
        # Without --no_ssh it would log in to the host.
        "deepspeed --hostfile HOSTFILE --no_ssh --node_rank=0 --master_addr=127.0.0.1",
    ],
)
def test_two_processes_are_two_ranks_of_one_run(launcher, tmp_path):
    (tmp_path / "hostfile").write_text("localhost slots=2\n")
    program, *words = launcher.replace("HOSTFILE", str(tmp_path / "hostfile")).split()
    command = [sys.executable, str(Path(sys.executable).with_name(program)), *words, str(ROOT / "train.py")]
    environment = child_environment(PATH=f"{Path(sys.executable).parent}:/usr/bin:/bin")
    done = subprocess.run(
        [*command, "debug=fast", "trainer.max_steps=2", f"output_dir={tmp_path}/run"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    summary = summary_of(tmp_path / "run")
    assert (summary["counts"]["ranks"], summary["training"]["step"]) == (2, 2)
