"""Predictor: a trained model asked in Python, through the renderer, strategy, packing and scoring of its training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import torch

from mlens.engine.ranks import Ranks
from mlens.evaluation.local_scorer import LocalScorer, load_local_scorer
from mlens.evaluation.metrics import rating_columns
from mlens.evaluation.score import Predictions, predict
from mlens.model.load import load_exported_tokenizer
from mlens.packing.dataset import RatingDataset
from mlens.predict.ask import Asked, ask
from mlens.predict.given import as_given, read_given
from mlens.prompt.renderer import make_renderer
from mlens.training.exported import Exported, read_exported

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Rows = pl.DataFrame | Iterable[Mapping[str, Any]]
Source = Rows | str | Path
# Called with how many more movies are done.
Progress = Callable[[int], None]


def _ignore(_: int) -> None:
    pass


@dataclass(frozen=True)
class Prompter:
    """What a trained model would be asked, without its weights."""

    exported: Exported
    tokenizer: PreTrainedTokenizerBase

    @classmethod
    def from_run(cls, path: str | Path, trust: bool = False) -> Prompter:
        """Of the folder of a run or of a model. Raises UserError as `read_exported` does."""
        exported = read_exported(Path(path), trust)
        return cls(exported, load_exported_tokenizer(exported.folder))

    def ask(
        self, user_history: Source, movies: Source, users: Sequence[str] | None = None, at_most: int | None = None
    ) -> Asked:
        """Each is a file (.csv or .json), a frame or records; `users` and `at_most` as in `ask`. Raises UserError where
        they can't be used."""
        given = {
            kind: read_given(Path(rows), kind, self.exported.scale)
            if isinstance(rows, str | Path)
            else as_given(rows, kind, Path(name))
            for kind, name, rows in (("history", "user_history", user_history), ("movies", "movies", movies))
        }
        return ask(given["history"], given["movies"], self.exported.scale, self.exported.ablation, users, at_most)

    def dataset(self, asked: Asked) -> RatingDataset:
        """The prompts, each with the history that the run's strategy shows to it in evaluation."""
        exported = self.exported
        renderer = make_renderer(asked.table, exported.prompt, exported.ablation, self.tokenizer, exported.chat_frame)
        seed = exported.evaluation.seed
        return RatingDataset(asked.table, asked.stage, exported.history, renderer, seed, separate=True)

    def prompts(self, asked: Asked) -> pl.DataFrame:
        """A row for each movie to be rated: `prompt` as text, its `prompt_token_ids`, and `text_is_enough`: whether the
        tokenizer gives these ids for the text, as a server would take it. With several draws, the first one's."""
        dataset = self.dataset(asked)
        texts = [dataset.text(i) for i in range(len(dataset))]
        ids = [sample.prompt.tolist() for sample in dataset]
        again = [self.tokenizer(text)["input_ids"] for text in texts]
        told = [one == other for one, other in zip(ids, again, strict=True)]
        return _who(asked).with_columns(
            prompt=pl.Series(texts, dtype=pl.String),
            prompt_token_ids=pl.Series(ids, dtype=pl.List(pl.Int64)),
            text_is_enough=pl.Series(told, dtype=pl.Boolean),
        )


@dataclass(frozen=True)
class Predictor:
    """A trained model and how it is asked."""

    prompter: Prompter
    scorer: LocalScorer

    @classmethod
    def from_run(cls, path: str | Path, device: str | None = None, trust: bool = False) -> Predictor:
        """Load the model that a run left, from the run's folder or from that of the model alone.

        device: where it computes (a GPU if there is one); trust: the folder may run code of its own, as a strategy from
        outside of mlens does. Raises UserError where it can't be loaded, or would run code without `trust`.
        """
        return cls.of(Prompter.from_run(path, trust), device)

    @classmethod
    def of(cls, prompter: Prompter, device: str | None = None) -> Predictor:
        """The same for what is asked without weights already."""
        exported, on = prompter.exported, torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        folder, bf16 = exported.folder, exported.bf16_parameters
        scorer = load_local_scorer(
            exported, folder, prompter.tokenizer, exported.dtype, bf16, exported.base_digest, Ranks(0, 1, on)
        )
        return cls(prompter, scorer)

    def predict(self, user_history: Source, movies: Source) -> pl.DataFrame:
        """A row for each movie, those that a user would rate best first: its `rank`, ids that were given, `title`, the
        `expected` and the most probable rating (`argmax`), the probability of each legal one (`p_0.5`, …), the mass
        that the model gives to anything else (`illegal_mass`), how many ratings of the history were shown
        (`history_used`) and how many the budget cut (`history_dropped`).

        user_history: one or more users' ratings: `rating`, `title` (with `genres`) or `movie`, and optionally `user`,
        `timestamp` (else in order of time), `profile`, `task`; movies: `title` (with `genres`), and optionally `movie`,
        `user`, `context`. Each is a frame, records, or a file (.csv or .json). Without `user`, the movies are rated for
        every user who hasn't rated them. Predictions are averaged over the run's evaluation.draws, histories counted in
        the first. Raises UserError where they can't be used.
        """
        return self.rank(self.prompter.ask(user_history, movies))

    def rank(self, asked: Asked, scored: Progress = _ignore) -> pl.DataFrame:
        """Like `predict`, for the movies in `asked`.

        scored: called with how many more movies have been scored, each counted once a draw.
        """
        exported, dataset = self.prompter.exported, self.prompter.dataset(asked)
        drawn = [dataset, *(dataset.at(draw) for draw in range(1, exported.evaluation.draws))]
        predictions = Predictions.averaged([predict(self.scorer, one, exported.packing, scored) for one in drawn])
        used, wanted = (
            np.array([len(ratings(i)) for i in range(len(dataset))], dtype=np.int64)
            for ratings in (dataset.history, dataset.wanted)
        )
        frame = _who(asked).with_columns(
            **rating_columns(predictions, exported.scale),
            illegal_mass=1 - predictions.legal,
            history_used=used,
            history_dropped=wanted - used,
        )
        order = np.lexsort((-frame["expected"].to_numpy(), asked.stage.user))
        first = np.searchsorted(asked.stage.user, asked.stage.user)
        return frame[order].insert_column(0, pl.Series("rank", np.arange(len(frame)) - first + 1))


def _who(asked: Asked) -> pl.DataFrame:
    """Of each movie to be rated: the ids that were given, and its title."""
    table, stage = asked.table, asked.stage
    movies = table.movies[table.movie[stage.targets]]
    ids = {"user": table.users["id"].gather(stage.user)} if asked.users else {}
    ids |= {"movie": movies["id"]} if asked.movies else {}
    return pl.DataFrame({**ids, "title": movies["title"]})
