"""Scoring a stage: every legal rating of every target, over draws; and the table of predictions."""

from math import fsum, sqrt

import numpy as np
import pytest

from mlens.evaluation.evaluate import by_activity, evaluate
from mlens.evaluation.metrics import measure, rmse
from mlens.evaluation.score import predict, predict_together
from mlens.packing.dataset import history_hash
from mlens.packing.reference import ReferenceRows
from tests.helpers.steps import parts


@pytest.fixture(scope="module")
def random_history():
    made = parts("history=random", "history.draw=per_target", "history.ratio=0.5")
    return made, made.engine()


def test_columns_and_values_of_predictions(random_history):
    made, engine = random_history
    dataset = made.datasets["test"]
    frame = evaluate(engine, [dataset], made.collator)[0].frame
    scale = [f"p_{rating}" for rating in (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0)]
    assert frame.columns == [
        *("user", "movie", "t", "rating", "expected", "argmax"),
        *scale,
        *("history_used", "history_dropped", "history_hash"),
    ]
    probability = frame.select(scale).to_numpy()
    assert len(frame) == len(dataset) and probability.min() >= 0
    assert probability.sum(axis=1) == pytest.approx(np.ones(len(frame)))
    table = made.table
    values = np.array(table.scale)
    assert frame["expected"].to_numpy() == pytest.approx(probability @ values)
    assert frame["argmax"].to_list() == [float(values[row.argmax()]) for row in probability]
    for i, row in enumerate(frame.iter_rows(named=True)):
        target = int(dataset.stage.targets[i])
        ratings = [k for k in range(len(table)) if table.user[k] == table.user[target]]
        assert row["user"] == table.users["id"][int(table.user[target])]
        assert row["movie"] == table.movies["id"][int(table.movie[target])]
        assert ratings[row["t"]] == target and row["rating"] == table.rating[target]
        assert row["history_used"] == len(dataset.history(i))
        wanted = max(1, int(0.5 * dataset.stage.count[i])) if dataset.stage.count[i] else 0
        assert row["history_used"] + row["history_dropped"] == wanted


def test_the_hash_identifies_the_history():
    random = ("history=random", "history.draw=per_target")
    made = [parts("data.max_users=4", *more) for more in (random, random, ("history=none",))]
    frames = [evaluate(one.engine(), [one.datasets["test"]], one.collator)[0].frame for one in made]
    assert frames[0].equals(frames[1])
    assert frames[2]["history_hash"].n_unique() == 1 and frames[2]["history_used"].sum() == 0
    assert not set(frames[0]["history_hash"]) & set(frames[2]["history_hash"])
    assert frames[0]["history_hash"].n_unique() == len(frames[0])


def test_packed_rows_give_the_predictions_of_separate_sequences():
    packed = parts("history=fixed_count")
    plain = parts("history=fixed_count", "packing=reference", "model.attention=sdpa")
    a = predict(packed.engine(), packed.datasets["test"], packed.collator)
    b = predict(plain.engine(), plain.datasets["test"], ReferenceRows())
    assert a.probability == pytest.approx(b.probability, abs=1e-5)
    assert a.legal == pytest.approx(b.legal, rel=1e-4)


@pytest.mark.parametrize("history", ["all_previous", "random"])
def test_stages_scored_together_have_the_predictions_of_each_alone(history):
    made = parts(f"history={history}", "prompt.max_tokens=512")
    engine, datasets = made.engine(), [made.datasets["val"], made.datasets["test"]]
    together = predict_together(engine, datasets, made.collator)
    for one, dataset in zip(together, datasets, strict=True):
        alone = predict(engine, dataset, made.collator)
        assert one.probability == pytest.approx(alone.probability, abs=1e-6)
        assert one.legal == pytest.approx(alone.legal, rel=1e-5)


def naive_rmse(predicted, rating):
    return sqrt(fsum((p - r) ** 2 for p, r in zip(predicted, rating, strict=True)) / len(rating))


@pytest.mark.sampled(1)
@pytest.mark.parametrize("draw", ["per_target", "per_user"])
def test_every_figure_is_the_mean_over_draws(draw):
    made = parts("history=random", "history.ratio=0.5", f"history.draw={draw}")
    engine, dataset = made.engine(), made.datasets["test"]
    (evaluated,) = evaluate(engine, [dataset], made.collator, draws=3)
    metrics = evaluated.metrics | by_activity(dataset, made.inputs.roles, evaluated.frames)
    datasets = [dataset.with_epoch(draw) for draw in range(3)]
    drawn = [predict(engine, one, made.collator) for one in datasets]
    index, user, scale = made.table.rating_index[dataset.stage.targets], dataset.stage.user, made.table.scale
    rating = [scale[i] for i in index]
    assert not np.array_equal(drawn[0].probability, drawn[1].probability)
    measured = [measure(one, index, user, scale) for one in drawn]
    for name in measured[0]:
        values = [one[name] for one in measured]
        assert metrics[name] == pytest.approx(sum(values) / 3)
        spread = (sum((value - sum(values) / 3) ** 2 for value in values) / 2) ** 0.5
        assert metrics["spread"][name] == pytest.approx(spread, abs=1e-12)
    # The frame: one draw after the other, each with the histories of that draw.
    frame = evaluated.frame
    assert frame["draw"].to_list() == [0] * len(dataset) + [1] * len(dataset) + [2] * len(dataset)
    expected = []
    for number, (dataset_of_draw, one) in enumerate(zip(datasets, drawn, strict=True)):
        rows = frame.filter(draw=number)
        assert rows["p_3.5"].to_numpy() == pytest.approx(one.probability[:, 6])
        assert rows["history_used"].to_list() == [len(dataset_of_draw.history(i)) for i in range(len(dataset))]
        assert rows["history_hash"].to_list() == [history_hash(dataset_of_draw.history(i)) for i in range(len(dataset))]
        expected.append(rows["expected"].to_list())
    assert metrics["rmse"] == pytest.approx(fsum(naive_rmse(one, rating) for one in expected) / 3)
    averaged = [fsum(of_target) / 3 for of_target in zip(*expected, strict=True)]
    assert metrics["averaged"]["rmse"] == pytest.approx(naive_rmse(averaged, rating), rel=1e-9) != metrics["rmse"]
    # Groups: the same targets in each draw.
    used = [fsum(frame["history_used"][i :: len(dataset)]) / 3 for i in range(len(dataset))]
    activity = [int(((made.inputs.roles == 0) & (made.table.user == u)).sum()) for u in user]
    for group, values in (("by_history_length", used), ("by_user_activity", activity)):
        for name, figures in metrics[group].items():
            low, high = (int(edge) if edge else 10**9 for edge in name.replace("+", "-").partition("-")[::2])
            high = low if "-" not in name and "+" not in name else high
            members = [i for i, value in enumerate(values) if low <= value < high + 1]
            of_draws = [naive_rmse([one[i] for i in members], [rating[i] for i in members]) for one in expected]
            assert figures["rmse"] == pytest.approx(fsum(of_draws) / 3) and figures["targets"] == len(members)


def test_one_draw_has_no_columns_or_metrics_of_draws(random_history):
    made, engine = random_history
    (evaluated,) = evaluate(engine, [made.datasets["test"]], made.collator)
    assert "draw" not in evaluated.frame.columns
    assert not {"spread", "averaged"} & evaluated.metrics.keys()
    rating, expected = evaluated.frame["rating"].to_numpy(), evaluated.frame["expected"].to_numpy()
    assert evaluated.metrics["rmse"] == rmse(expected, rating)


def test_progress_is_reported_for_every_target_of_every_draw(random_history):
    made, engine = random_history
    reported = []
    evaluate(engine, [made.datasets["val"]], made.collator, 2, reported.append)
    assert sum(reported) == 2 * len(made.datasets["val"])


def test_groups_count_training_ratings(random_history):
    made, engine = random_history
    dataset = made.datasets["test"]
    (evaluated,) = evaluate(engine, [dataset], made.collator)
    groups = by_activity(dataset, made.inputs.roles, evaluated.frames)
    table, trained = made.table, made.inputs.roles == 0
    activity = [int((trained & (table.user == u)).sum()) for u in dataset.stage.user]
    popularity = [int((trained & (table.movie == table.movie[t])).sum()) for t in dataset.stage.targets]
    unseen = groups["by_movie_popularity"].get("0", {"targets": 0})
    assert unseen["targets"] == sum(n == 0 for n in popularity)
    assert groups["by_user_activity"]["20-49"]["targets"] == sum(20 <= n < 50 for n in activity)
    for of in (*groups.values(), evaluated.metrics["by_history_length"]):
        assert sum(group["targets"] for group in of.values()) == len(dataset) == evaluated.metrics["targets"]


def test_scoring_leaves_training_mode_and_weights_unchanged(random_history):
    made, engine = random_history
    before = {name: tensor.clone() for name, tensor in made.model.state_dict().items()}
    predict(engine, made.datasets["val"], made.collator)
    assert made.model.training
    assert all((before[name] == tensor).all() for name, tensor in made.model.state_dict().items())
