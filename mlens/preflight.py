"""What a run can be known to fail at before it reads any data: its model's files, its chat template, its tracker."""

from __future__ import annotations

from urllib.error import HTTPError
from urllib.request import urlopen

from mlens.config import Settings
from mlens.errors import UserError, first_line
from mlens.model.settings import PretrainedModel

# Seconds that a server may take to answer at all.
PATIENCE = 5.0
OFFLINE = "choose wandb.mode=offline (`wandb sync` uploads the run later)"


def preflight(settings: Settings) -> None:
    """Check what these settings name outside of the config. One process of a run calls it, and a sweep for each job.

    Raises UserError for a pretrained model whose files, tokenizer or architecture can't be used, for a chat template
    that can't be rendered, and for wandb.mode=online without a key or a connection.
    """
    if settings.wandb.mode == "online":
        _require_wandb()
    if not isinstance(settings.model, PretrainedModel):
        return
    from mlens.model.load import load_pretrained_tokenizer, require_usable
    from mlens.prompt.frame import ChatFrame, render_frame

    tokenizer, prompt = load_pretrained_tokenizer(settings.model), settings.prompt
    frame = render_frame(tokenizer, prompt.chat_date) if prompt.chat else ChatFrame("", "")
    require_usable(settings.model, tokenizer, frame, prompt.max_tokens)


def _require_wandb() -> None:
    """Raises UserError where Weights & Biases can't be reached, or has no valid key of this user's."""
    import wandb

    url = wandb.setup().settings.base_url
    try:
        urlopen(url, timeout=PATIENCE).close()
    except HTTPError:
        pass  # an answer, whatever it is
    except OSError as error:
        raise UserError(f"wandb.mode=online: {url} can't be reached ({error}): {OFFLINE}") from error
    try:
        wandb.login(force=True, verify=True)
    except (wandb.Error, ValueError) as error:
        raise UserError(
            f"wandb.mode=online: {first_line(error)} Set WANDB_API_KEY to your key, or {OFFLINE}."
        ) from error
