"""The config nodes `prompt` and `ablation`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from mlens.checks import require_choice, require_number
from mlens.errors import UserError

NEWEST_FIRST = "newest_first"


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
    dates: whether a history line and the target have the day of their rating (UTC).
    order: of the history lines, `time` (the oldest first) or `newest_first`.
    """

    task: str
    question: str
    chat: bool = False
    chat_date: str = "2025-01-01"
    max_tokens: int = 2048
    history_tokens: int | None = None
    trim: str = "strided"
    max_context: int = 15
    dates: bool = False
    order: str = "time"

    def __post_init__(self) -> None:
        try:
            date.fromisoformat(self.chat_date)
        except ValueError as error:
            raise UserError(f"prompt.chat_date must be a date such as 2025-01-01, not {self.chat_date}") from error
        require_number("prompt.max_tokens", self.max_tokens, at_least=1)
        require_number("prompt.history_tokens", self.history_tokens, at_least=0, null=True)
        require_choice("prompt.trim", self.trim, ("strided", "exact"))
        require_number("prompt.max_context", self.max_context, at_least=0)
        require_choice("prompt.order", self.order, ("time", NEWEST_FIRST))


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
