"""Check what a run would fail at, before it reads any data: the model's files, the chat template, missing packages."""

from __future__ import annotations

from mlens.config import Settings
from mlens.connection import connection_error
from mlens.errors import UserError
from mlens.model.settings import Lora, PretrainedModel
from mlens.packages import require_package
from mlens.text import first_line

OFFLINE = "choose wandb.mode=offline (`wandb sync` uploads the run later)"


def preflight(settings: Settings) -> None:
    """Check the model, template and packages that the settings name. Called once a run, by a sweep once a job.

    Raises UserError for a pretrained model whose files, tokenizer or architecture can't be used, for a chat template
    that can't be rendered, for a package that isn't installed, and for wandb.mode=online without a key or a connection.
    """
    for name in settings.trackers:
        require_package(name, name, f"tracker={name}")
    if "wandb" in settings.trackers and settings.wandb.mode == "online":
        _require_wandb()
    if isinstance(settings.peft, Lora) and settings.peft.load_in_4bit:
        require_package("bitsandbytes", "qlora", "peft=qlora")
    if settings.trainer.optimizer == "adamw_8bit":
        require_package("bitsandbytes", "qlora", "trainer.optimizer=adamw_8bit")
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
