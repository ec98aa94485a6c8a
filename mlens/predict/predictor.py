"""Predictor: predict ratings in Python, with the renderer, strategy, packing and scoring of the model's training."""

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
from mlens.history.strategy import load_strategy
from mlens.model.exported_tokenizer import load_exported_tokenizer
from mlens.packing.dataset import RatingDataset
from mlens.predict.inputs import input_from_rows, read_input
from mlens.predict.request import PredictionRequest, build_request
from mlens.prompt.renderer import make_renderer
from mlens.training.exported import ExportedSettings, read_exported

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Rows = pl.DataFrame | Iterable[Mapping[str, Any]]
Source = Rows | str | Path
# Called with the number of movies scored since the last call.
Progress = Callable[[int], None]


def _ignore(_: int) -> None:
    pass


@dataclass(frozen=True)
class Prompter:
    """Makes the prompts of a trained model, without loading its weights."""

    exported: ExportedSettings
    tokenizer: PreTrainedTokenizerBase

    @classmethod
    def from_run(cls, path: str | Path, trust: bool = False) -> Prompter:
        """Open the folder of a run or of a model. Raises UserError as `read_exported` does."""
        exported = read_exported(Path(path), trust)
        return cls(exported, load_exported_tokenizer(exported.folder))

    def request(
        self, user_history: Source, movies: Source, users: Sequence[str] | None = None, at_most: int | None = None
    ) -> PredictionRequest:
        """Read a history and candidate movies, each from a file (.csv or .json), a frame or records.

        `users` and `at_most` are as in `build_request`. Raises UserError where they can't be used.
        """
        tables = {
            kind: read_input(Path(rows), kind, self.exported.scale)
            if isinstance(rows, str | Path)
            else input_from_rows(rows, kind, Path(name))
            for kind, name, rows in (("history", "user_history", user_history), ("movies", "movies", movies))
        }
        exported = self.exported
        scale, ablation, dates = exported.scale, exported.ablation, exported.prompt.dates
        return build_request(tables["history"], tables["movies"], scale, ablation, users, at_most, dates)

    def dataset(self, request: PredictionRequest) -> RatingDataset:
        """Return the dataset of the request, with the histories that the run's strategy selects in evaluation.

        Raises UserError where what the strategy was fitted with can't be read.
        """
        exported = self.exported
        renderer = make_renderer(request.table, exported.prompt, exported.ablation, self.tokenizer, exported.chat_frame)
        strategy = load_strategy(exported.history, exported.folder, request.table)
        seed = exported.evaluation.seed
        return RatingDataset(request.table, request.stage, strategy, renderer, seed, separate=True)

    def prompts(self, request: PredictionRequest) -> pl.DataFrame:
        """Return the prompts of the request, a row for each movie; with several draws, those of the first draw.

        Columns: the ids of the input and `title`, then
        prompt: text
        prompt_token_ids: list of int
        text_is_enough: whether the tokenizer makes these ids of the text, so that a server may be sent the text
        """
        dataset = self.dataset(request)
        texts = [dataset.text(i) for i in range(len(dataset))]
        ids = [sample.prompt.tolist() for sample in dataset]
        of_text = [self.tokenizer(text)["input_ids"] for text in texts]
        equal = [one == other for one, other in zip(ids, of_text, strict=True)]
        return _ids_and_titles(request).with_columns(
            prompt=pl.Series(texts, dtype=pl.String),
            prompt_token_ids=pl.Series(ids, dtype=pl.List(pl.Int64)),
            text_is_enough=pl.Series(equal, dtype=pl.Boolean),
        )


@dataclass(frozen=True)
class Predictor:
    """A trained model that predicts ratings."""

    prompter: Prompter
    scorer: LocalScorer

    @classmethod
    def from_run(cls, path: str | Path, device: str | None = None, trust: bool = False) -> Predictor:
        """Load the model of a run.

        path: the folder of the run, or that of the model
        device: where the model computes; None: a GPU if there is one, else the CPU
        trust: allow the folder to run code, such as a strategy from outside mlens

        Raises UserError where the model can't be loaded, or would run code without `trust`.
        """
        return cls.of(Prompter.from_run(path, trust), device)

    @classmethod
    def of(cls, prompter: Prompter, device: str | None = None) -> Predictor:
        """Load the weights for a `Prompter`, as `from_run` does."""
        exported, on = prompter.exported, torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        folder, bf16 = exported.folder, exported.bf16_parameters
        scorer = load_local_scorer(
            exported, folder, prompter.tokenizer, exported.dtype, bf16, exported.base_digest, Ranks(0, 1, on)
        )
        return cls(prompter, scorer)

    def predict(self, user_history: Source, movies: Source) -> pl.DataFrame:
        """Predict users' ratings of movies. Each argument is a frame, records, or a file (.csv or .json).

        user_history: ratings of one or more users, with the columns `rating`, `title` (and `genres`) or `movie`, and
            optionally `user`, `timestamp` (without it, rows are in time order), `profile`, `task`
        movies: candidates, with the columns `title` (and `genres`), and optionally `movie`, `user`, `context`; without
            `user`, they are candidates of every user who hasn't rated them

        A model that was trained with prompt.dates=true needs `timestamp` in both: when a rating was given, and when the
        movie is to be rated.

        Returns a row for each user and candidate, sorted by user and then by expected rating, the highest first:
        rank: among the user's candidates, from 1
        user, movie: the ids of the input, where it has them
        title: text
        expected: the expected rating
        argmax: the most probable rating
        p_0.5, …: the probability of each legal rating
        illegal_mass: the probability of anything but a legal rating
        history_used: ratings of the history in the prompt
        history_dropped: ratings that the strategy selected and the token budget dropped

        Predictions are averaged over the run's evaluation.draws; history_used and history_dropped are of the first
        draw. Raises UserError where the input can't be used.
        """
        return self.rank(self.prompter.request(user_history, movies))

    def rank(self, request: PredictionRequest, scored: Progress = _ignore) -> pl.DataFrame:
        """Predict the ratings of `request`; returns what `predict` does.

        scored: called with the number of movies scored since the last call, each counted once a draw
        """
        exported, dataset = self.prompter.exported, self.prompter.dataset(request)
        drawn = [dataset, *(dataset.with_epoch(draw) for draw in range(1, exported.evaluation.draws))]
        predictions = Predictions.averaged([predict(self.scorer, one, exported.packing, scored) for one in drawn])
        used, wanted = (
            np.array([len(ratings(i)) for i in range(len(dataset))], dtype=np.int64)
            for ratings in (dataset.history, dataset.wanted)
        )
        frame = _ids_and_titles(request).with_columns(
            **rating_columns(predictions, exported.scale),
            illegal_mass=1 - predictions.legal,
            history_used=used,
            history_dropped=wanted - used,
        )
        order = np.lexsort((-frame["expected"].to_numpy(), request.stage.user))
        first = np.searchsorted(request.stage.user, request.stage.user)
        return frame[order].insert_column(0, pl.Series("rank", np.arange(len(frame)) - first + 1))


def _ids_and_titles(request: PredictionRequest) -> pl.DataFrame:
    """Return the ids that the input has, and the title, of each target."""
    table, stage = request.table, request.stage
    movies = table.movies[table.movie[stage.targets]]
    ids = {"user": table.users["id"].gather(stage.user)} if request.has_users else {}
    ids |= {"movie": movies["id"]} if request.has_movies else {}
    return pl.DataFrame({**ids, "title": movies["title"]})
