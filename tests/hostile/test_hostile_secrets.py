"""What stands in the environment stays there: no file of a run, and nothing that it prints, holds a value of it."""

import pytest

from tests.helpers.runs import FAST, train

SECRETS = {
    "WANDB_API_KEY": "5ec4e7" * 6 + "abcd",
    "HF_TOKEN": "hf_5ec4e75ec4e7",
    "AWS_SECRET_ACCESS_KEY": "5ec4e7-aws",
    "MY_OWN_PASSWORD": "5ec4e7-own",
}
MARK = b"5ec4e7"


@pytest.mark.slow
def test_no_file_of_a_run_holds_what_the_environment_does(tmp_path):
    folder = tmp_path / "run"
    done = train(*FAST, "trainer.max_steps=2", "wandb.mode=offline", f"output_dir={folder}", cwd=tmp_path, **SECRETS)
    assert done.returncode == 0, done.stderr
    assert MARK.decode() not in done.stdout + done.stderr
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert {"config.yaml", "hydra.yaml", "summary.json", "plan.json", "metrics.jsonl"} <= {file.name for file in files}
    assert any(file.suffix == ".wandb" for file in files)
    assert [str(file) for file in files if MARK in file.read_bytes()] == []


def test_a_reference_to_it_is_refused_before_anything_is_written_or_said(tmp_path):
    folder = tmp_path / "run"
    done = train(*FAST, "wandb.name='${oc.env:HF_TOKEN}'", f"output_dir={folder}", cwd=tmp_path, **SECRETS)
    assert done.returncode == 2 and done.stderr.startswith("error: wandb.name refers to the environment")
    assert MARK.decode() not in done.stdout + done.stderr and done.stderr.count("\n") == 1
    assert not folder.exists()
