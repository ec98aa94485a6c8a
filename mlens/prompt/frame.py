"""What a chat template puts around a prompt: rendered once, on a fixed date, and kept with the run."""

from __future__ import annotations

from datetime import datetime, tzinfo
from typing import TYPE_CHECKING, NamedTuple, Self

from mlens.errors import UserError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Stands for the user's message while the template is rendered.
PLACEHOLDER = "mlens-prompt-placeholder"


class ChatFrame(NamedTuple):
    """The text before and after the user's message."""

    before: str
    after: str


def render_frame(tokenizer: PreTrainedTokenizerBase, date: str) -> ChatFrame:
    """What the tokenizer's chat template puts before and after a user's message, with thinking off, on the day `date`
    (ISO 8601; a template that prints the day would else give other prompts tomorrow).

    Raises UserError for a tokenizer without a chat template, and for a template that can't be rendered, changes the
    message, or renders differently each time.
    """
    where = f"prompt=chat: the chat template of {tokenizer.name_or_path}"
    if not tokenizer.chat_template:
        raise UserError(f"prompt=chat: the tokenizer {tokenizer.name_or_path} has no chat template: use prompt=simple")
    frames = {_render(tokenizer, datetime.fromisoformat(date), where) for _ in range(2)}
    if len(frames) > 1:
        raise UserError(f"{where} renders differently each time: use prompt=simple, or a template without random parts")
    return frames.pop()


def _render(tokenizer: PreTrainedTokenizerBase, day: datetime, where: str) -> ChatFrame:
    from unittest.mock import patch

    from transformers.utils import chat_template_utils

    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return cls.fromisoformat(day.isoformat())

    message = [{"role": "user", "content": PLACEHOLDER}]
    try:
        # A template's strftime_now reads this module's clock, and takes no other one.
        with patch.object(chat_template_utils, "datetime", Clock):
            text = tokenizer.apply_chat_template(
                message, tokenize=False, add_generation_prompt=True, enable_thinking=False
            )
    except Exception as error:  # whatever the template raises: it is a program of the model's authors
        raise UserError(f"{where} can't be rendered: {first_line(error)}. Use prompt=simple.") from error
    parts = str(text).split(PLACEHOLDER)
    if len(parts) != 2:
        raise UserError(f"{where} shows a message {len(parts) - 1} times, not once: use prompt=simple")
    return ChatFrame(*parts)
