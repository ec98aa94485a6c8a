"""Made-up checkpoints of a run: files of a few bytes, with valid manifests."""

import json
from pathlib import Path

from mlens.engine.manifest import MANIFEST, Manifest, checkpoint_name, digest_of


def make_checkpoint(checkpoints: Path, step: int, needs: int | None = None, size: int = 100) -> Path:
    """Make a checkpoint with two files of `size` bytes each."""
    folder = checkpoints / checkpoint_name(step)
    folder.mkdir(parents=True)
    for name in ("model.pt", "optimizer.pt"):
        (folder / name).write_bytes(b"x" * size)
    saved = Manifest(step, needs, 1, {"progress": {"step": step}}, {"model.pt": [size, ""], "optimizer.pt": [size, ""]})
    (folder / MANIFEST).write_text(json.dumps({"digest": digest_of(saved), **vars(saved)}))
    return folder


def finish(run: Path, *steps: int, best: int | None = None) -> Path:
    """Give the made-up finished `run` a model, and checkpoints of these steps with their links."""
    (run / "model").mkdir()
    (run / "model" / "model.safetensors").write_bytes(b"weights")
    for step in steps:
        # The best step when this checkpoint was saved: up to the final best step, this one is the best so far.
        make_checkpoint(run / "checkpoints", step, best if best is None else min(best, step))
    for name, linked in (("last", steps[-1]), ("best", best)):
        if linked is not None:
            (run / "checkpoints" / name).symlink_to(checkpoint_name(linked))
    return run
