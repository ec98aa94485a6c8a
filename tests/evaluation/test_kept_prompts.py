"""predictions/prompts.json: the prompts that a comparison shows."""

import json

import pytest

from mlens.evaluation.kept_prompts import EXAMPLES, WORST
from tests.helpers.runs import run_here


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    found = {}
    for history in ("none", "all_previous"):
        run_here(folder / history, "debug=fast", f"history={history}", "trainer.max_steps=1")
        found[history] = json.loads((folder / history / "predictions" / "prompts.json").read_text())
    return found


def test_examples_are_the_same_targets_in_every_run(kept):
    examples = {
        history: [(p["user"], p["movie"], p["t"]) for p in prompts if p["kind"] == "example"]
        for history, prompts in kept.items()
    }
    assert examples["none"] == examples["all_previous"] and len(examples["none"]) == EXAMPLES


def test_the_worst_are_the_prompts_with_the_largest_errors(kept):
    for prompts in kept.values():
        errors = [abs(p["expected"] - p["rating"]) for p in prompts if p["kind"] == "worst"]
        assert len(errors) == WORST and errors == sorted(errors, reverse=True)


def test_a_prompt_has_the_history_of_its_strategy(kept):
    for prompt in kept["all_previous"]:
        assert prompt["prompt"].count("\n1. ") == 1 and f"\n{prompt['history_used']}. " in prompt["prompt"]
        assert f"User: {prompt['title']} (" in prompt["prompt"]
    assert all("[HISTORICAL_RATINGS]" not in prompt["prompt"] for prompt in kept["none"])
