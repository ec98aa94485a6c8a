"""The text that a chat template puts around a prompt. It is rendered once, on a fixed date, and saved with the run."""

from __future__ import annotations

from datetime import datetime, tzinfo
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from mlens.errors import UserError
from mlens.text import first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Replaces the user's message while the template is rendered.
PLACEHOLDER = "mlens-prompt-placeholder"


class ChatFrame(NamedTuple):
    """The text before and after the user's message."""

    before: str
    after: str


def render_frame(tokenizer: PreTrainedTokenizerBase, date: str) -> ChatFrame:
    """Render what the tokenizer's chat template puts before and after a user's message, with thinking off.

    date: the current date for the template, ISO 8601. A template that prints the date would otherwise give different
        prompts every day.

    A template that takes a list of parts instead of text, as those of vision models do, is given one part.

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

    rendered: list[str] = []
    # strftime_now of a template reads the clock of this module, and no other one can be passed.
    with patch.object(chat_template_utils, "datetime", Clock):
        for content in (PLACEHOLDER, [{"type": "text", "text": PLACEHOLDER}]):
            message: list[Any] = [{"role": "user", "content": content}]
            try:
                text = tokenizer.apply_chat_template(
                    message, tokenize=False, add_generation_prompt=True, enable_thinking=False
                )
            except Exception as error:  # a template is a program, which can raise anything
                failure = error
                continue
            rendered.append(str(text))
            if rendered[-1].count(PLACEHOLDER) == 1:
                return ChatFrame(*rendered[-1].split(PLACEHOLDER))
    if not rendered:
        raise UserError(f"{where} can't be rendered: {first_line(failure)}. Use prompt=simple.") from failure
    raise UserError(f"{where} shows a message {rendered[0].count(PLACEHOLDER)} times, not once: use prompt=simple")
