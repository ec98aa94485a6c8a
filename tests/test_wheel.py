"""An installed mlens has all that its commands need, conf/ and train.py included."""

import shutil

import pytest

from mlens import __version__
from tests.helpers.runs import ROOT, command


@pytest.mark.slow
def test_the_wheel_alone_trains_and_sweeps_outside_of_the_checkout(tmp_path):
    source = tmp_path / "source"  # building leaves files in it
    for name in ("mlens", "hydra_plugins", "conf"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "train.py"):
        shutil.copy(ROOT / name, source)
    built = command("-m", "pip", "wheel", "--no-deps", "--wheel-dir", str(tmp_path), str(source))
    assert built.returncode == 0, built.stderr
    shutil.rmtree(source)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    command("-m", "pip", "install", "--no-deps", "--target", str(site), str(wheel))

    def mlens(*words, ranks=0):
        done = command("-m", "mlens", *words, ranks=ranks, cwd=tmp_path, PYTHONPATH=str(site))
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = command("-c", "import mlens; print(mlens.__file__)", cwd=tmp_path, PYTHONPATH=str(site)).stdout
    assert where.startswith(str(site))
    assert mlens("--version") == f"mlens {__version__}\n"
    assert "[HISTORICAL_RATINGS]" in mlens("show", "user=1001", "data=sample")
    assert mlens("train", "debug=fast", "output_dir=run").endswith("run/summary.json\n")
    assert mlens("train", "debug=fast", "output_dir=ranks", ranks=2).endswith("ranks/summary.json\n")
    swept = mlens("train", "--multirun", "debug=fast", "history=none,random", "output_dir=sweep")
    assert swept.endswith("sweep/report.html\n")
    assert len((tmp_path / "sweep" / "results.csv").read_text().splitlines()) == 3
