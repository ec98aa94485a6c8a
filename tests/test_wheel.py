"""An installed mlens has all that its commands need, conf/ among it."""

import shutil

import pytest

from tests.helpers.runs import ROOT, command


@pytest.mark.slow
def test_the_wheel_alone_composes_configs_outside_of_the_checkout(tmp_path):
    source = tmp_path / "source"  # building leaves files in it
    parts = ("mlens", "hydra_plugins", "conf")
    for name in parts:
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    built = command("-m", "pip", "wheel", "--no-deps", "--wheel-dir", str(tmp_path), str(source))
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    command("-m", "pip", "install", "--no-deps", "--target", str(site), str(wheel))
    where = command("-c", "import mlens; print(mlens.__file__)", cwd=tmp_path, PYTHONPATH=str(site)).stdout
    assert where.startswith(str(site))
    shown = command("-m", "mlens", "show", "user=1001", "data=sample", cwd=tmp_path, PYTHONPATH=str(site))
    assert shown.returncode == 0 and "[HISTORICAL_RATINGS]" in shown.stdout, shown.stderr
