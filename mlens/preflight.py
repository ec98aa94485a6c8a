"""Check what a run would fail at, before it reads any data: the model's files, the chat template, the tracker."""

from __future__ import annotations

from importlib.util import find_spec

from mlens.config import Settings
from mlens.connection import connection_error
from mlens.errors import UserError
from mlens.model.settings import PretrainedModel
from mlens.text import first_line

OFFLINE = "choose wandb.mode=offline (`wandb sync` uploads the run later)"


def preflight(settings: Settings) -> None:
    """Check the model, template and tracker that the settings name. Called once a run, by a sweep once a job.

    Raises UserError for a pretrained model whose files, tokenizer or architecture can't be used, for a chat template
    that can't be rendered, for a tracker that isn't installed, and for wandb.mode=online without a key or a connection.
    """
    for name in settings.trackers:
        spec = find_spec(name)
        if spec is None or spec.origin is None:  # without origin: a folder that has this name
            raise UserError(f"tracker={name} needs the package {name}: pip install -e '.[{name}]'")
    if "wandb" in settings.trackers and settings.wandb.mode == "online":
        _require_wandb()
    if not isinstance(settings.model, PretrainedModel):
        return
    from mlens.model.load import load_pretrained_tokenizer, require_usable
    from mlens.prompt.frame import ChatFrame, render_frame

    tokenizer, prompt = load_pretrained_tokenizer(settings.model), settings.prompt
    frame = render_frame(tokenizer, prompt.chat_date) if prompt.chat else ChatFrame("", "")
    require_usable(settings.model, tokenizer, frame, prompt.max_tokens)


def _require_wandb() -> None:
    """Raise UserError where Weights & Biases can't be reached, or the user has no valid key."""
    import wandb

    refusal = connection_error(wandb.setup().settings.base_url)
    if refusal is not None:
        raise UserError(f"wandb.mode=online: {refusal}: {OFFLINE}")
    try:
        wandb.login(force=True, verify=True)
    except (wandb.Error, ValueError) as error:
        raise UserError(
            f"wandb.mode=online: {first_line(error)} Set WANDB_API_KEY to your key, or {OFFLINE}."
        ) from error
