"""training_logs/detailed_training_log.txt: prompt lengths and some of the model's inputs, to be checked by eye."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice

from transformers import PreTrainedTokenizerBase

from mlens.packing.dataset import RatingDataset
from mlens.packing.epoch_plan import targets_together
from mlens.packing.lengths import Lengths
from mlens.packing.steps import LOSSES, Steps

SAMPLES = 3
# Fewer targets than these together, where several times as many could share a history, deserve a note.
FEW_TOGETHER, SEVERAL = 4, 4
REASONABLE = "This is reasonable: most prompts hold all that the strategy chose."


def detailed_log(
    lengths: dict[str, Lengths], dataset: RatingDataset, tokenizer: PreTrainedTokenizerBase, loss: str
) -> Iterator[str]:
    """Yield the lines of the log.

    First the prompt lengths of every stage and whether they are reasonable, and the loss (trainer.loss); then the first
    training samples that have a history, with their raw fields, decoded input and decoded labels.
    """
    style = dataset.renderer.template.style
    yield f"Prompt lengths in tokens, answer included (prompt.max_tokens={style.max_tokens})"
    for name, stage in lengths.items():
        yield (
            f"  {name}: {stage.targets} targets; min {stage.tokens_min}, median {stage.tokens_median}, "
            f"90% {stage.tokens_p90}, 99% {stage.tokens_p99}, max {stage.tokens_max}; "
            f"history cut for {stage.trimmed:.1%} of them ({stage.ratings_dropped:.1%} of the chosen ratings); "
            f"{stage.without_history:.1%} without history"
        )
    yield from (f"  {line}" for line in length_warnings(lengths, dataset) or [REASONABLE])
    yield f"Loss: {LOSSES[loss]} (trainer.loss={loss})"
    yield ""
    for i in islice(_with_history_first(dataset), SAMPLES):
        yield from _sample(dataset, i, tokenizer)


def length_warnings(lengths: Mapping[str, Lengths], dataset: RatingDataset) -> list[str]:
    """Return a warning for stages that trim most prompts, and one for stages where most targets see no history.

    dataset: any of the run's, for the strategy
    """
    found = []
    if cut := _mostly({name: stage.trimmed for name, stage in lengths.items()}):
        found.append(
            f"WARNING: most prompts are trimmed ({cut}): the token budget, more than the strategy, determines the "
            "history. Raise prompt.max_tokens, or choose a strategy that selects fewer ratings"
        )
    shows = type(dataset.strategy).__name__ != "NoHistory" and dataset.renderer.template.ablation.history
    if shows and (blind := _mostly({name: stage.without_history for name, stage in lengths.items()})):
        found.append(f"WARNING: most targets see no history ({blind}): the data are sparse, or split.ties hides it")
    return found


def sharing_notes(dataset: RatingDataset, steps: Steps) -> list[str]:
    """Return a sentence where settings give away most of the histories that the targets of `dataset` could share."""
    if dataset.renderer.template.newest_first:
        return ["prompt.order=newest_first: targets share no histories, each prompt is computed in full"]
    together, possible = targets_together(dataset, steps)
    if together >= FEW_TOGETHER or possible < SEVERAL * together:
        return []
    return [
        f"a step keeps {together:.0f} targets of a user together, and {possible:.0f} could share their "
        f"history: an epoch takes longer by up to that factor. Lower trainer.users_per_step ({steps.pieces}), or raise "
        f"trainer.targets_per_step ({steps.targets})"
    ]


def _mostly(shares: Mapping[str, float]) -> str:
    """List the stages with a share above one half.

    >>> _mostly({"train": 0.4, "val": 0.55, "test": 1.0})
    'val 55%, test 100%'
    """
    return ", ".join(f"{name} {share:.0%}" for name, share in shares.items() if share > 0.5)


def _with_history_first(dataset: RatingDataset) -> Iterator[int]:
    """Yield the targets that see at least three ratings, then (for strategies without history) all."""
    yield from (i for i in range(len(dataset)) if len(dataset.histories.shown(i)) >= 3)
    yield from range(len(dataset))


def _sample(dataset: RatingDataset, i: int, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    table, sample = dataset.table, dataset[i]
    user, movie = int(table.user[sample.target]), int(table.movie[sample.target])
    yield f"=== sample {i}: user {table.users['id'][user]}, movie {table.movies['id'][movie]} ==="
    yield f"title: {table.movies['title'][movie]}"
    yield f"genres: {table.movies['genres'][movie]}"
    yield f"rating: {table.scale[table.rating_index[sample.target]]}, timestamp: {table.timestamp[sample.target]}"
    yield f"visible ratings: {dataset.stage.count[i]}, shown: {len(sample.history)}, cut: {sample.dropped}"
    yield f"prompt tokens: {len(sample.prompt)}, answer tokens: {len(sample.answer)}"
    yield "--- input, decoded ---"
    yield str(tokenizer.decode(sample.prompt.tolist()))
    yield "--- labels, decoded ---"
    yield str(tokenizer.decode(sample.answer.tolist()))
    yield f"label ids: {sample.answer.tolist()}"
    yield ""
