"""The detailed log: what the model reads, for inspection."""

import pytest

from mlens.packing.lengths import measure_lengths
from mlens.packing.steps import Steps
from mlens.training.detailed_log import detailed_log, length_warnings, sharing_notes
from tests.helpers.steps import parts


def log_of(made) -> list[str]:
    lengths = {name: measure_lengths(dataset) for name, dataset in made.datasets.items()}
    loss = made.settings.trainer.loss
    return "\n".join(detailed_log(lengths, made.datasets["train"], made.tokenizer, loss)).splitlines()


@pytest.fixture(scope="module")
def random_history():
    made = parts("history=random")
    return made, log_of(made)


def test_it_begins_with_the_lengths_of_every_stage(random_history):
    made, lines = random_history
    train = measure_lengths(made.datasets["train"])
    assert "prompt.max_tokens=256" in lines[0]
    for line, name in zip(lines[1:4], ("train", "val", "test"), strict=True):
        assert line.strip().startswith(f"{name}: {len(made.datasets[name])} targets; min ")
    assert f"min {train.tokens_min}, median {train.tokens_median}, 90% {train.tokens_p90}, 99%" in lines[1]
    assert f"max {train.tokens_max}" in lines[1]
    assert "history cut for" in lines[1] and "without history" in lines[1]


def test_it_names_the_loss(random_history):
    _, lines = random_history
    assert "Loss: cross-entropy, nats a label token (trainer.loss=ce)" in lines[:10]


def test_its_first_hundred_lines_show_a_history(random_history):
    _, lines = random_history
    assert "[HISTORICAL_RATINGS]" in lines[:100]


def test_its_samples_are_the_models_input(random_history):
    made, lines = random_history
    text = "\n".join(lines)
    dataset = made.datasets["train"]
    first = next(i for i in range(len(dataset)) if len(dataset.history(i)) >= 3)
    assert f"=== sample {first}: " in text
    assert made.tokenizer.decode(dataset[first].prompt.tolist()) in text and dataset.text(first) in text
    assert f"label ids: {dataset[first].answer.tolist()}" in text
    assert text.count("=== sample ") == 3 and text.count("--- labels, decoded ---") == 3
    target = int(dataset.stage.targets[first])
    rating = float(made.table.rating[target])
    assert f"rating: {rating}, timestamp: {made.table.timestamp[target]}" in text
    assert f"{rating}{made.tokenizer.eos_token}" in text


def test_without_history_it_shows_samples_too():
    lines = log_of(parts("history=none"))
    assert sum(line.startswith("=== sample ") for line in lines) == 3
    assert "[HISTORICAL_RATINGS]" not in lines


def test_without_wanted_ratings_none_is_dropped():
    lengths = measure_lengths(parts("history=none").datasets["train"])
    assert (lengths.ratings_dropped, lengths.trimmed, lengths.without_history) == (0, 0, 1)


def test_a_strategy_that_the_budget_decides_is_pointed_out():
    made = parts("history=all_previous", "prompt.max_tokens=100")
    lengths = {name: measure_lengths(dataset) for name, dataset in made.datasets.items()}
    (line,) = length_warnings(lengths, made.datasets["train"])
    assert line.startswith("WARNING: most prompts are trimmed (train ") and "prompt.max_tokens" in line


def test_reasonable_lengths_are_reported_as_such(random_history):
    made, _ = random_history
    assert not length_warnings({"train": measure_lengths(made.datasets["train"])}, made.datasets["train"])


def test_steps_that_give_the_sharing_away_are_pointed_out():
    train = parts("history=all_previous", "prompt.max_tokens=2048", "packing.row_tokens=2048").datasets["train"]
    (line,) = sharing_notes(train, Steps(targets=16, pieces=16))
    assert line.startswith("a step keeps 1 targets of a user together, and ")
    assert line.endswith("Lower trainer.users_per_step (16), or raise trainer.targets_per_step (16)")
    assert sharing_notes(train, Steps(targets=128, pieces=8)) == []
    per_target = parts("history=random", "history.draw=per_target").datasets["train"]
    assert sharing_notes(per_target, Steps(targets=16, pieces=16)) == []
