"""How threads wait is set before torch, which reads it when it is imported."""

import os
import subprocess
import sys

import pytest

import mlens
from tests.helpers.runs import ROOT, child_environment

# Runs a script up to its first import of torch, and prints how threads will wait.
UNTIL_TORCH = """
import os, runpy, sys
from pathlib import Path

class Torch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print(*(f"{name}={os.environ[name]}" for name in WAITING if name in os.environ), flush=True)
            os._exit(0)

sys.meta_path.insert(0, Torch())
sys.argv = sys.argv[1:]
sys.path[0] = str(Path(sys.argv[0]).parent)
runpy.run_path(sys.argv[0], run_name="__main__")
""".replace("WAITING", repr(mlens.WAITING))
# Those that import torch at once, and train.py, whose run does.
SCRIPTS = [("train.py", "debug=fast")] + [
    (str(file.relative_to(ROOT)), "--help")
    for file in sorted((ROOT / "benchmarks").glob("*.py"))
    if '__name__ == "__main__"' in (text := file.read_text()) and ("\nimport torch" in text or "\nimport ours" in text)
]


def until_torch(*arguments: str, **more: str) -> str:
    environment = {name: value for name, value in child_environment().items() if name not in mlens.WAITING}
    ended = subprocess.run(
        [sys.executable, "-c", UNTIL_TORCH, *arguments],
        cwd=ROOT,
        env=environment | more,
        capture_output=True,
        text=True,
        check=True,
    )
    return ended.stdout.splitlines()[-1]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("arguments", SCRIPTS, ids=[script for script, _ in SCRIPTS])
def test_an_entry_point_sets_it_before_torch(arguments):
    assert until_torch(*arguments) == f"GOMP_SPINCOUNT={mlens.SPINS}"


@pytest.mark.parametrize(
    "name", [mlens.WAITING[0], *(pytest.param(name, marks=pytest.mark.slow) for name in mlens.WAITING[1:])]
)
def test_what_the_user_has_set_stays(name):
    assert until_torch("train.py", "debug=fast", **{name: "1"}) == f"{name}=1"


def test_the_tests_themselves_import_mlens_before_torch():
    import torch  # noqa: F401

    names = list(sys.modules)
    assert names.index("mlens") < names.index("torch")
    assert any(name in os.environ for name in mlens.WAITING)
