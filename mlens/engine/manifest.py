"""The manifest of a checkpoint, and where checkpoints are; read without torch."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

MANIFEST = "manifest.json"
PREFIX = "step_"


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint holds.

    step: how many updates were made.
    needs: the step of another checkpoint that this one needs (the best model's), or None.
    ranks: how many ranks wrote it.
    state: the run's state, plain data.
    files: size and digest of each file, by name.
    """

    step: int
    needs: int | None
    ranks: int
    state: dict
    files: dict[str, list]


def checkpoint_name(step: int) -> str:
    return f"{PREFIX}{step:08d}"


def saved_steps(folder: Path) -> list[int]:
    """The steps of the checkpoints in `folder`, intact or damaged, ascending."""
    folders = [path for path in folder.glob(f"{PREFIX}*") if path.is_dir() and not path.is_symlink()]
    names = [path.name.removeprefix(PREFIX) for path in folders]
    return sorted(int(name) for name in names if name.isdecimal())


def read_manifest(checkpoint: Path) -> tuple[Manifest | None, str | None]:
    """The manifest, or None and what is wrong with it."""
    try:
        content = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        digest, saved = content.pop("digest"), Manifest(**content)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        return None, f"{MANIFEST} can't be read ({error})"
    return (saved, None) if digest == digest_of(saved) else (None, f"the digest of {MANIFEST} differs")


def digest_of(saved: Manifest) -> str:
    """The digest of the manifest's content."""
    text = json.dumps(vars(saved), sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
