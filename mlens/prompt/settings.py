"""The config nodes `prompt` and `ablation`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from mlens.errors import UserError


@dataclass(frozen=True)
class Style:
    """The config node `prompt`: the texts of the prompt, and its length limits.

    task: the text under [TASK].
    question: the prompt's last line.
    chat: whether to wrap the prompt in the tokenizer's chat template.
    chat_date: the date for chat templates that print one, ISO 8601.
    max_tokens: the most tokens of prompt and answer together.
    history_tokens: the most tokens of the history section (None: only max_tokens limits it).
    trim: how a window that doesn't fit is cut, `strided` or `exact`.
    max_context: the most context turns.
    """

    task: str
    question: str
    chat: bool = False
    chat_date: str = "2025-01-01"
    max_tokens: int = 2048
    history_tokens: int | None = None
    trim: str = "strided"
    max_context: int = 15

    def __post_init__(self) -> None:
        try:
            date.fromisoformat(self.chat_date)
        except ValueError as error:
            raise UserError(f"prompt.chat_date must be a date such as 2025-01-01, not {self.chat_date}") from error
        if self.max_tokens < 1:
            raise UserError(f"prompt.max_tokens must be at least 1, not {self.max_tokens}")
        if self.history_tokens is not None and self.history_tokens < 0:
            raise UserError(f"prompt.history_tokens must be at least 0 or null, not {self.history_tokens}")
        if self.trim not in ("strided", "exact"):
            raise UserError(f"prompt.trim must be strided or exact, not {self.trim}")
        if self.max_context < 0:
            raise UserError(f"prompt.max_context must be at least 0, not {self.max_context}")


@dataclass(frozen=True)
class Ablation:
    """The config node `ablation`: the sections that a prompt has in addition to task and target.

    profile: the user's profile.
    history: the selected history.
    context: context turns or tags.
    """

    profile: bool
    history: bool
    context: bool
