"""Loading the tokenizer of a run. Imports no models, which take transformers seconds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mlens.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# What transformers, tokenizers and safetensors raise for an invalid folder: they share no class of errors, and those
# from Rust have no class but this.
BROKEN = Exception


def load_exported_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer that a run exported to `folder` with its model. Raises UserError where it can't be loaded."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder)
    except BROKEN as error:
        raise cannot_load("tokenizer", str(folder), error) from error


def cannot_load(what: str, where: str, error: Exception) -> UserError:
    """Return the error of a part of a model that can't be loaded.

    what: the part, such as `tokenizer`.
    where: a folder, or a name on the hub.
    """
    reason = [*str(error).strip().splitlines(), type(error).__name__][0]
    return UserError(f"can't load the {what} of {where}: {reason} (model.path=FOLDER takes a local copy)")
