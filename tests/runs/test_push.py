"""mlens push: what goes to the hub, what doesn't, and how it is refused."""

import socket
import sys

import pytest
from omegaconf import OmegaConf

from mlens.cli import push as command
from mlens.runs.push import find_upload
from tests.helpers.hub_stand_in import running_hub
from tests.helpers.made_up_cards import make_card
from tests.helpers.made_up_runs import make_run

REPO = "somebody/ratings"
MODEL = ("README.md", "config.json", "mlens.json", "model.safetensors", "tokenizer.json")


@pytest.fixture(scope="module")
def card():
    return make_card()


@pytest.fixture
def run(tmp_path, card):
    """A finished run, with files in its model's folder that don't belong there."""
    run = make_run(tmp_path / "run")
    (run / "model").mkdir()
    for name in (*MODEL, "predictions.parquet", "train.csv", "optimizer.pt"):
        (run / "model" / name).write_text(f"the content of {name}\n")
    (run / "model" / "README.md").write_text(card)
    (run / "model" / "checkpoints").mkdir()
    (run / "model" / "vocab.json").symlink_to(run / "summary.json")
    return run


@pytest.fixture(scope="module")
def served():
    with running_hub() as hub:
        yield hub


@pytest.fixture
def hub(served, tmp_path, monkeypatch):
    """An empty hub at which the user is logged in."""
    for content in (served.private, served.files, served.large, served.refusals, served.requests):
        content.clear()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", served.url)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    monkeypatch.setenv("HF_TOKEN", "hf_made_up")
    return served


@pytest.fixture
def pushed(monkeypatch, capsys):
    """Run `mlens push` with some words; returns its exit code, and what it printed."""

    def run_it(*words):
        monkeypatch.setattr(sys, "argv", ["push", *map(str, words)])
        try:
            command.main()
        except SystemExit as end:
            return end.code, capsys.readouterr()
        return 0, capsys.readouterr()

    return run_it


@pytest.fixture
def refused(pushed):
    """Like `pushed`, for a refusal: returns its one line."""

    def refused_line(*words):
        code, printed = pushed(*words)
        lines = [line for line in printed.err.splitlines() if line.startswith("error: ")]
        assert code == 2 and len(lines) == 1 and "Traceback" not in printed.err
        return lines[0].removeprefix("error: ")

    return refused_line


def test_only_files_of_an_exported_model_are_found(run):
    found = find_upload(run)
    assert found.sizes == {name: (run / "model" / name).stat().st_size for name in MODEL}
    assert found.skipped == ("checkpoints", "optimizer.pt", "predictions.parquet", "train.csv", "vocab.json")
    assert found.notes == ()


def test_the_files_arrive_unchanged(run, hub, pushed):
    code, printed = pushed(run, REPO, "--yes")
    assert code == 0 and printed.out.splitlines()[-1] == f"{hub.url}/{REPO}/commit/{'1' * 40}"
    assert hub.files == {REPO: {name: (run / "model" / name).read_bytes() for name in MODEL}}
    assert hub.private == {REPO: False} and {*hub.large.values()} == {hub.files[REPO]["model.safetensors"]}
    assert all(name in printed.out for name in MODEL) and "not uploaded: train.csv" in printed.out
    # Again, into the repository that exists now.
    (run / "model" / "mlens.json").write_text("changed")
    assert pushed(run, REPO, "--yes")[0] == 0 and hub.files[REPO]["mlens.json"] == b"changed"


def test_private_is_private(run, hub, pushed, refused):
    assert pushed(run, REPO, "--private", "--yes")[0] == 0 and hub.private == {REPO: True}
    assert pushed(run, REPO, "--private", "--yes")[0] == 0, "a private repository takes another commit"
    hub.private[REPO], hub.files[REPO] = False, {}
    assert "somebody/ratings exists and is public" in refused(run, REPO, "--private", "--yes")
    assert hub.files[REPO] == {}


def test_a_dry_run_needs_no_network(run, pushed, monkeypatch):
    monkeypatch.setattr("mlens.runs.push.HfApi", None)
    monkeypatch.setattr("mlens.runs.push.connection_error", None)
    code, printed = pushed(run, REPO, "--dry-run", "--private")
    assert code == 0 and printed.out.splitlines()[-1] == "nothing was uploaded"
    (line,) = [line for line in printed.out.splitlines() if line.startswith("5 files, ")]
    assert line.endswith(f"/{REPO}, private")


@pytest.mark.parametrize(("answer", "files"), [("y", len(MODEL)), ("n", 0), ("", 0)])
def test_it_asks_on_a_terminal(run, hub, pushed, monkeypatch, answer, files):
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: answer)
    code, printed = pushed(run, REPO)
    assert code == 0 and len(hub.files.get(REPO, {})) == files
    assert ("nothing was uploaded" in printed.out) == (files == 0)


def test_without_a_terminal_it_refuses(run, hub, refused, monkeypatch):
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    assert "Give --yes or --dry-run" in refused(run, REPO) and hub.requests == []


def test_training_ratings_and_a_local_base_model_are_noted(run):
    config = OmegaConf.load(run / ".hydra" / "config.yaml")
    config.history.by, config.model = "ratings", {"path": "/models/base"}
    OmegaConf.save(config, run / ".hydra" / "config.yaml")
    for name in ("history_similarity.npz", "adapter_config.json"):
        (run / "model" / name).write_text("")
    ratings, base = find_upload(run).notes
    assert "training ratings, without user ids" in ratings and base.endswith("/models/base")
    config.history.by, config.model = "text", {"name": "somebody/base"}
    OmegaConf.save(config, run / ".hydra" / "config.yaml")
    assert find_upload(run).notes == ()


def test_a_linked_folder_is_refused(run, refused):
    (run / "model").rename(run / "elsewhere")
    (run / "model").symlink_to("elsewhere")
    assert "is a link" in refused(run, REPO, "--dry-run")


def test_what_is_no_finished_run_is_refused(run, tmp_path, refused):
    assert refused(tmp_path / "nothing", REPO, "--dry-run").startswith("no such run")
    (run / "model" / "model.safetensors").unlink()
    assert refused(run, REPO, "--dry-run").startswith("no model weights")
    (run / "model" / "README.md").unlink()
    assert "README.md is missing" in refused(run, REPO, "--dry-run")
    (run / "summary.json").unlink()
    assert refused(run, REPO, "--dry-run").startswith("no finished run")


@pytest.mark.parametrize("repo", ["ratings", "some body/ratings", "a/b/c", "../ratings", "-/x"])
def test_a_name_that_is_none_is_refused(run, refused, repo):
    assert refused(run, "--dry-run", "--", repo)


def test_nobody_is_logged_in(run, hub, refused, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    assert "hf auth login" in refused(run, REPO, "--yes") and hub.requests == []


def test_no_network(run, hub, refused, monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")
        assert "can't be reached" in refused(run, REPO, "--yes")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in refused(run, REPO, "--yes")


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/api/repos/create", 403, "You don't have the rights to create a model under this namespace"),
        ("/api/repos/create", 401, "Invalid username or password."),
        ("/api/validate-yaml", 400, "Invalid metadata"),
        ("/preupload/", 404, "Repository not found"),
        ("/lfs/", 403, "Storage limit reached"),
        ("/commit/", 412, "A commit has happened since."),
    ],
)
def test_a_refusal_of_the_hub_is_one_line(run, hub, refused, path, status, message):
    hub.refusals[path] = status, message
    line = refused(run, REPO, "--yes")
    assert line.startswith(REPO) and message.rstrip(".") in line
    assert not hub.files.get(REPO)


def test_a_wrong_token(run, hub, refused, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    assert "status 401" in refused(run, REPO, "--yes")
