"""What identifies a run besides its config: the data, the initial model, and the version.

Every check whether two runs are the same (fingerprint, resume, a sweep's finished jobs, the arms of a report) compares
these.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import mlens
from mlens.config import Settings, flatten, is_below
from mlens.errors import UserError
from mlens.files import write_json
from mlens.model.digest import model_digest
from mlens.prompt.frame import ChatFrame, render_frame
from mlens.schema import TEXT, TEXT_OR_NONE, TWO_TEXTS_OR_NONE, Schema, read_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FILE = "identity.json"
SCHEMA: Schema = {"data": TEXT, "model": TEXT_OR_NONE, "chat_frame": TWO_TEXTS_OR_NONE, "version": TEXT}
# Settings that don't affect the result of a run: left out of its fingerprint, and free to change on resume. The files
# at data.path and model.path are identified by their content.
NOT_RESULT = (
    "output_dir",
    "resume",
    "tracker",
    "wandb",
    "data.path",
    "model.path",
    "trainer.loader_workers",
    "trainer.checkpoint",
)


@dataclass(frozen=True)
class Identity:
    """The identity of a run besides its config.

    data: the content hash of the ratings.
    model: the digest of the pretrained model's files; None for a tiny model.
    chat_frame: what the chat template puts around a prompt; None without a template.
    version: that of mlens.
    """

    data: str
    model: str | None
    chat_frame: ChatFrame | None
    version: str

    def fingerprint(self, settings: Settings) -> str:
        """Return a hash of all that the result of a run depends on: this identity, and the config without NOT_RESULT.

        Two runs with the same fingerprint give the same result.
        """
        kept = {key: value for key, value in flatten(settings.config).items() if not is_below(key, NOT_RESULT)}
        parts = [kept, self.data, self.version]
        parts += [part for part in (self.model, self.chat_frame) if part is not None]
        return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=8).hexdigest()


def identify(
    settings: Settings, data: str, tokenizer: Callable[[], PreTrainedTokenizerBase], run: Path | None = None
) -> Identity:
    """Return the identity of a run.

    settings: of the run
    data: the content hash of the ratings
    tokenizer: returns the model's tokenizer; called only where a chat template is used
    run: the folder of the run that is resumed, which keeps its chat frame; None for a new run

    Raises UserError where the model or its template can't be used, or `run` is another run.
    """
    before = None
    if run is not None:
        before = read_identity(run)
        if before is None:
            raise UserError(f"the data and model of the run in {run} are unknown ({FILE} is missing): start it again")
    if not settings.prompt.chat:
        frame = None
    elif before is not None:
        frame = before.chat_frame
    else:
        frame = render_frame(tokenizer(), settings.prompt.chat_date)
    identity = Identity(data, model_digest(settings.model), frame, mlens.__version__)
    if before is not None:
        assert run is not None
        _require_same(run, before, identity)
    return identity


def write_identity(run: Path, identity: Identity) -> None:
    write_json(run / FILE, asdict(identity))


def read_identity(run: Path) -> Identity | None:
    """Read the identity in a run's folder; None where the file is missing, as in runs of older versions.

    Raises UserError where the file isn't valid.
    """
    file = run / FILE
    if not file.is_file():
        return None
    content = read_json(file, SCHEMA)
    frame = content["chat_frame"]
    chat_frame = None if frame is None else ChatFrame(*frame)
    return Identity(content["data"], content["model"], chat_frame, content["version"])


def _require_same(run: Path, before: Identity, now: Identity) -> None:
    if before.data != now.data:
        raise UserError(f"the data aren't those that the run in {run} began with: give another output_dir")
    if before.model != now.model:
        raise UserError(
            f"the model isn't the one that the run in {run} began with (its config, weights or tokenizer differ): give "
            "model.path of that model, or another output_dir"
        )
