"""The learning rate of each step, and the number of steps."""

import math

import pytest

from mlens.training.loop import total_steps
from mlens.training.schedule import rate_factor, warmup
from mlens.training.settings import Trainer


def factors(total, **settings):
    trainer = Trainer(**settings)
    return [rate_factor(trainer, step, total) for step in range(total)]


def test_constant_stays_after_the_warm_up():
    assert factors(6, schedule="constant", warmup_steps=4) == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_linear_falls_to_nothing_after_the_last_step():
    assert factors(5, schedule="linear", warmup_steps=0) == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])


def test_cosine_is_half_a_cosine():
    expected = [0.5, 1.0] + [0.5 * (1 + math.cos(math.pi * i / 4)) for i in range(4)]
    assert factors(6, schedule="cosine", warmup_steps=2) == pytest.approx(expected)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_the_rate_peaks_at_its_base_and_never_vanishes(schedule):
    rates = factors(50, schedule=schedule, warmup_steps=10)
    assert max(rates) == 1.0 and rates.index(1.0) == 9 and min(rates) > 0
    assert schedule == "constant" or rates[10:] == sorted(rates[10:], reverse=True)


def test_a_ratio_of_all_steps_is_converted_to_a_number():
    assert warmup(Trainer(warmup_ratio=0.1, warmup_steps=100), 200) == 20
    assert factors(10, schedule="linear", warmup_ratio=0.2) == factors(10, schedule="linear", warmup_steps=2)
    assert warmup(Trainer(warmup_ratio=0.0), 200) == 0


def test_a_warm_up_is_no_longer_than_the_run():
    assert factors(3, warmup_steps=100) == pytest.approx([1 / 3, 2 / 3, 1.0])


@pytest.mark.parametrize(
    "settings, targets, steps",
    [
        ({"max_epochs": 3, "targets_per_step": 10}, 25, 9),
        ({"max_epochs": 3, "targets_per_step": 10}, 30, 9),
        ({"max_epochs": 3, "targets_per_step": 10, "max_steps": 4}, 25, 4),
        ({"max_epochs": 1, "targets_per_step": 10, "max_steps": 400}, 25, 3),
        ({"max_epochs": 5, "targets_per_step": 10, "max_steps": 0}, 25, 0),
        ({"max_epochs": 2, "targets_per_step": 512}, 25, 2),
    ],
)
def test_epochs_or_steps_end_a_run_whichever_comes_first(settings, targets, steps):
    assert total_steps(Trainer(**settings), targets) == steps
