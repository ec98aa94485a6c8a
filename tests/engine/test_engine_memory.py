"""The peak of a process is its own, not that of the program that started it."""

import sys

import pytest

from tests.helpers.runs import command

CHILD = """
import torch
from mlens.engine.memory import peak_memory_bytes
cpu = torch.device("cpu")
before = peak_memory_bytes(cpu)
kept = b"1" * (200 << 20)
print(before, peak_memory_bytes(cpu))
"""
PARENT = f"""
import subprocess, sys
kept = b"1" * (1 << 30)
subprocess.run([sys.executable, "-c", {CHILD!r}], check=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system's own figure is the process's")
def test_a_larger_parent_is_not_counted():
    done = command("-c", PARENT)
    assert done.returncode == 0, done.stderr
    before, after = map(int, done.stdout.split())
    assert 0 < before < 1 << 30
    assert 190 << 20 < after - before < 300 << 20
