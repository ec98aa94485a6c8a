"""The digest of a pretrained model's files: config, weights and tokenizer. Doesn't import torch."""

from __future__ import annotations

from pathlib import Path

from mlens.connection import connection_error
from mlens.data.cache import content_key
from mlens.errors import UserError
from mlens.model.settings import PretrainedModel, TinyModel
from mlens.text import first_line

# The files that determine what a model computes and how it tokenises; code counts only where it may run.
FILES = (
    "config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "adapter_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "vocab.json",
    "merges.txt",
)
CODE = ("*.py",)
# Some models on hubs contain their weights a second time, in the format of their authors.
NOT_READ = ("consolidated*", "*/*")


def model_digest(settings: TinyModel | PretrainedModel) -> str | None:
    """The digest of the files that a model is loaded from; None for a tiny model, which is determined by its settings
    and the data.

    The digests of large files are cached, so that weights are read once. The same files in another folder, or in a
    hub's cache, give the same digest. Raises UserError where a model on a hub can't be downloaded.
    """
    if isinstance(settings, TinyModel):
        return None
    folder = model_folder(settings)
    files = {file for pattern in _patterns(settings) for file in folder.glob(pattern)}
    read = (file for file in files if not file.match(NOT_READ[0]))
    return content_key("model", files=sorted(read, key=lambda file: file.name))


def model_folder(settings: PretrainedModel) -> Path:
    """The folder of the model's files: `path`, or the hub's snapshot of `name` at `revision`, which is downloaded where
    it isn't cached. Raises UserError where that fails."""
    if settings.path is not None:
        return Path(settings.path).expanduser()
    from huggingface_hub import constants, snapshot_download

    assert settings.name is not None
    refusal = None if constants.HF_HUB_OFFLINE else connection_error(constants.ENDPOINT)
    try:
        return Path(
            snapshot_download(
                settings.name,
                revision=settings.revision,
                allow_patterns=list(_patterns(settings)),
                ignore_patterns=list(NOT_READ),
                local_files_only=refusal is not None,
            )
        )
    except Exception as error:  # the hub's client and the libraries that it uses share no class of errors
        raise UserError(
            f"can't get the model {settings.name} (revision {settings.revision or 'main'}) from the hub: "
            f"{refusal or first_line(error)}. model.path=FOLDER takes a local copy."
        ) from error


def _patterns(settings: PretrainedModel) -> tuple[str, ...]:
    return FILES + (CODE if settings.trust_remote_code else ())
