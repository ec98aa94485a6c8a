"""Upload of a finished run's model to the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError
from huggingface_hub.utils import validate_repo_id

from mlens.comparison.finished_runs import read_run
from mlens.connection import connection_error
from mlens.errors import UserError
from mlens.history.similarity import FILE as SIMILARITY
from mlens.text import first_line
from mlens.training.folder import RunFolder

ADAPTER = "adapter_config.json"
# Without these no model can be loaded, or its metadata is missing.
REQUIRED = ("README.md", "mlens.json")
WEIGHTS = ("model.safetensors", "model-*-of-*.safetensors", "adapter_model.safetensors")
# What mlens and transformers write into the folder of an exported model. No other file is uploaded.
UPLOADED = (
    *(*REQUIRED, *WEIGHTS, SIMILARITY, ADAPTER),
    *("config.json", "generation_config.json", "model.safetensors.index.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja"),
    *("vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model"),
)


@dataclass(frozen=True)
class Upload:
    """What of a model's folder is uploaded.

    folder: the model's folder.
    sizes: bytes of each file to upload, by name.
    skipped: names of what else is in the folder.
    notes: what to know before it is uploaded, a line each.
    """

    folder: Path
    sizes: dict[str, int]
    skipped: tuple[str, ...]
    notes: tuple[str, ...]


def find_upload(run: Path) -> Upload:
    """Find the files of a finished run's model that mlens and transformers wrote.

    Raises UserError if there is no such run, it isn't finished, or a file of its model is missing.
    """
    if not run.is_dir():
        raise UserError(f"no such run: {run}. Give the folder of a finished run")
    config, folder = read_run(run).config, RunFolder(run).model
    if folder.is_symlink():
        raise UserError(f"{folder} is a link: nothing is uploaded through one")
    inside = sorted(folder.iterdir()) if folder.is_dir() else []
    files = [path for path in inside if _matches(path.name, UPLOADED) and path.is_file() and not path.is_symlink()]
    sizes = {path.name: path.stat().st_size for path in files}
    for name in REQUIRED:
        if name not in sizes:
            raise UserError(f"no exported model: {folder / name} is missing")
    if not any(_matches(name, WEIGHTS) for name in sizes):
        raise UserError(f"no model weights: {folder}")
    notes = []
    if SIMILARITY in sizes and config["history"].get("by") != "text":
        notes.append(
            f"{SIMILARITY} holds training ratings, without user ids: the licence of the data applies to it (README.md)"
        )
    if ADAPTER in sizes and config["model"].get("path"):
        notes.append(
            f"the adapter's base model is a local folder, which isn't uploaded; {ADAPTER} and mlens.json name it: "
            f"{config['model']['path']}"
        )
    return Upload(folder, sizes, tuple(path.name for path in inside if path.name not in sizes), tuple(notes))


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def check_repo(repo: str) -> None:
    """Raise UserError if `repo` can't be the name of a repository. Needs no network."""
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UserError(first_line(error)) from error
    if "/" not in repo:
        raise UserError(f"{repo} names no owner: give OWNER/NAME, the owner being you or an organisation")


def push(upload: Upload, repo: str, private: bool) -> str:
    """Upload the files to the hub in one commit, into a repository that is created if it doesn't exist.

    private: of a new repository; an existing one must be private then

    Returns the URL of the commit. Raises UserError if no one is logged in, the hub can't be reached or refuses the
    upload, or the repository is public in spite of `private`.
    """
    if get_token() is None:
        raise UserError("not logged in to the Hugging Face hub: run `hf auth login`, or set HF_TOKEN")
    if constants.HF_HUB_OFFLINE:
        raise UserError("HF_HUB_OFFLINE=1 forbids connections to the Hugging Face hub: unset it to upload")
    problem = connection_error(constants.ENDPOINT)
    if problem is not None:
        raise UserError(f"nothing was uploaded: {problem}")
    api = HfApi()
    with _one_line_refusals(repo):
        api.create_repo(repo, private=private, exist_ok=True)
        public = private and not api.model_info(repo).private
    if public:
        raise UserError(
            f"nothing was uploaded: {repo} exists and is public. Make it private on {constants.ENDPOINT}, or give "
            "another name"
        )
    additions = [CommitOperationAdd(name, upload.folder / name) for name in upload.sizes]
    with _one_line_refusals(repo):
        return api.create_commit(repo, additions, commit_message="Upload a model trained with mlens").commit_url


@contextmanager
def _one_line_refusals(repo: str) -> Iterator[None]:
    """Raise UserError for what the hub, the connection and huggingface_hub raise."""
    try:
        yield
    except HfHubHTTPError as error:
        status = error.response.status_code
        reason = (error.server_message or first_line(error)).strip()
        message = f"{repo}: the hub refused the upload with status {status}: {reason.rstrip('.')}"
        if status in (401, 403):
            message += ". Check the owner, and that your token may write there: `hf auth whoami`"
        raise UserError(message) from error
    # HTTPError is that of the HTTP library; RuntimeError is raised by the one that transfers large files.
    except (HTTPError, OSError, RuntimeError, ValueError) as error:
        raise UserError(f"{repo}: the upload failed: {error}") from error
