"""The best possible predictions, against references that share no code with them."""

import numpy as np
import pytest
from scipy.stats import norm

from mlens.data.raw import HALF_STARS
from mlens.data.sample import MEAN, SPREAD, Sample, Truth, to_scale
from mlens.data.sample_bayes import bayes_predictions, bayes_rmse, last_tenth, noise_floor, score, static_rmse
from mlens.data.sample_filter import rating_moments

SCALE = np.array(HALF_STARS)
EDGES = np.array([-np.inf, *(SCALE[1:] - 0.25), np.inf])


def probabilities(mean, deviation):
    """P of each legal rating for a latent N(mean, deviation²): [..., 10]."""
    return np.diff(norm.cdf((EDGES - np.asarray(mean)[..., None]) / deviation), axis=-1)


def one_user(ratings, loading, drift, noise=0.5):
    """A truth of one user who rates movies 0, 1, 2, ..; states are left out, as a prediction must not look at them."""
    n = len(ratings)
    return Truth(
        user=np.zeros(n, dtype=np.int32),
        step=np.arange(n, dtype=np.int32),
        movie=np.arange(n, dtype=np.int32),
        rating=np.array(ratings, dtype=float),
        state=np.full((n, len(SPREAD)), np.nan),
        movie_offset=np.linspace(-0.5, 0.5, n),
        loading=loading,
        drift=drift,
        noise=noise,
    )


def test_rating_moments():
    mean = np.linspace(-1, 7, 41)
    of_each = probabilities(mean, 0.6)
    first, variance = rating_moments(mean, 0.6)
    assert first == pytest.approx(of_each @ SCALE)
    assert variance == pytest.approx(of_each @ SCALE**2 - (of_each @ SCALE) ** 2, abs=1e-12)


def test_the_noise_floor_is_what_redrawn_noise_leaves():
    truth = Sample(users=100).truth()
    rows = np.arange(len(truth))
    noise = np.random.default_rng(1).normal(scale=truth.noise, size=(500, len(truth)))
    redrawn = to_scale(truth.latent_mean + noise)
    assert noise_floor(truth, rows) == pytest.approx(np.sqrt(redrawn.var(axis=0, ddof=1).mean()), rel=0.003)


def test_without_history_the_error_is_the_priors():
    truth = Sample(users=3000).truth()
    targets, visible = last_tenth(truth)
    rmse = bayes_rmse(truth, targets, [rows[:0] for rows in visible])
    states = np.random.default_rng(2).normal(scale=SPREAD, size=(20_000, len(SPREAD)))
    latent = MEAN + truth.movie_offset + states @ truth.loading.T
    ratings = to_scale(latent + np.random.default_rng(3).normal(scale=truth.noise, size=latent.shape))
    simulated = np.sqrt(ratings.var(axis=0)[truth.movie[targets]].mean())
    assert rmse.monte_carlo == 0
    assert rmse.standard_error < 0.01
    assert abs(rmse.expected - simulated) < 3 * rmse.standard_error
    assert rmse.observed == pytest.approx(rmse.expected, abs=0.02)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("drift", [0.0, 0.4])
@pytest.mark.parametrize("seen", [[0], [0, 1, 2, 3, 4, 5], [1, 4], [5]])
def test_bayes_predictions_against_a_grid(drift, seen):
    # Only the offset matters (no genre weighs anything), so that the forward algorithm on a grid is the reference.
    ratings = [5.0, 5.0, 3.0, 4.5, 0.5, 5.0, 3.0]
    loading = np.zeros((7, len(SPREAD)))
    loading[:, 0] = 1
    truth = one_user(ratings, loading, drift)
    grid = np.linspace(-5, 5, 1001) * SPREAD[0]
    density = norm.pdf(grid, scale=SPREAD[0])
    density /= density.sum()
    for step in range(7):
        if step and drift:
            move = norm.pdf(grid[None, :], np.sqrt(1 - drift**2) * grid[:, None], drift * SPREAD[0])
            density = density @ (move / move.sum(axis=1, keepdims=True))
        of_each = probabilities(MEAN + truth.movie_offset[step] + grid, truth.noise)
        if step in seen:
            density = density * of_each[:, int(2 * ratings[step]) - 1]
            density /= density.sum()
    exact = density @ of_each @ SCALE

    found = bayes_predictions(truth, np.array([6]), [np.array(seen)], particles=4000, repeats=8)
    assert found.standard_error[0] < 0.004
    assert abs(found.expected[0] - exact) < 5 * found.standard_error[0] + 0.0005


@pytest.mark.parametrize("drift", [0.0, 0.5])
def test_bayes_predictions_against_weighted_draws_from_the_prior(drift):
    # All seven dimensions: draw whole users, and weigh each by the probability of the seen ratings.
    generator = np.random.default_rng(4)
    loading = np.zeros((4, len(SPREAD)))
    loading[:, 0] = 1
    loading[[0, 1, 3], 1] = 1, 0.5**0.5, 1
    loading[[1, 2], 2] = 0.5**0.5, 1
    truth = one_user([4.5, 1.5, 3.0, 2.0], loading, drift)
    state = generator.normal(scale=SPREAD, size=(100_000, len(SPREAD)))
    weight = np.ones(len(state))
    for step in range(4):
        if step:
            state = np.sqrt(1 - drift**2) * state + drift * generator.normal(scale=SPREAD, size=state.shape)
        of_each = probabilities(MEAN + truth.movie_offset[step] + state @ loading[step], truth.noise)
        if step < 3:
            weight *= of_each[:, int(2 * truth.rating[step]) - 1]
    rating = of_each @ SCALE
    reference = (weight * rating).sum() / weight.sum()
    reference_error = np.sqrt((weight**2 * (rating - reference) ** 2).sum()) / weight.sum()

    found = bayes_predictions(truth, np.array([3]), [np.arange(3)], particles=4000, repeats=8)
    assert abs(found.expected[0] - reference) < 4 * np.hypot(reference_error, found.standard_error[0])


@pytest.mark.slow
def test_the_stated_monte_carlo_error_is_the_error():
    truth = Sample(users=30, drift=0.3).truth()
    targets, visible = last_tenth(truth)
    rough = bayes_predictions(truth, targets, visible)
    fine = bayes_predictions(truth, targets, visible, particles=500, seed=1)
    difference = np.sqrt(np.mean((rough.expected - fine.expected) ** 2))
    stated = np.sqrt(np.mean(rough.standard_error**2 + fine.standard_error**2))
    assert difference == pytest.approx(stated, rel=0.25)
    assert stated < 0.01


def test_predictions_repeat_and_dont_see_the_target():
    truth = Sample(users=20, drift=0.3).truth()
    targets, visible = last_tenth(truth)
    first = bayes_predictions(truth, targets, visible)
    assert np.array_equal(first.expected, bayes_predictions(truth, targets, visible).expected)
    ends = np.flatnonzero(np.append(np.diff(truth.user) > 0, True))
    truth.rating[ends] = 0.5
    again = bayes_predictions(truth, targets, visible)
    assert np.array_equal(first.expected, again.expected)


@pytest.mark.parametrize("history", [[-1], [3, 2], [2, 2], [5], [6]])
def test_a_history_that_cant_be_is_refused(history):
    loading = np.eye(7)
    truth = one_user([3.0] * 7, loading, 0.0)
    for rmse in (bayes_rmse, static_rmse):
        with pytest.raises(ValueError, match="the history of row 5"):
            rmse(truth, np.array([5]), [np.array(history)])


def test_another_users_history_is_refused():
    truth = Sample(users=2).truth()
    second = np.flatnonzero(truth.user == 1)
    with pytest.raises(ValueError, match="of the same user"):
        bayes_predictions(truth, second[1:2], [np.array([0])])


def test_score_is_the_expectation_of_the_observed():
    truth = Sample(users=4000, ratings_per_user=20).truth()
    rows = np.arange(len(truth))
    predictions = np.random.default_rng(5).uniform(0.5, 5, len(truth))
    rmse = score(truth, rows, predictions)
    assert rmse.observed == pytest.approx(rmse.expected, abs=0.01)
    perfect = score(truth, rows, rating_moments(truth.latent_mean, truth.noise)[0])
    assert perfect.expected == pytest.approx(noise_floor(truth, rows))


def test_the_stated_standard_error_is_the_spread_over_samples():
    found = []
    for seed in range(40):
        truth = Sample(users=200, seed=seed).truth()
        # The same movies for each sample, so that only the users are drawn anew.
        truth.movie_offset[:] = 0
        targets = np.flatnonzero(truth.step >= 17)
        found.append(score(truth, targets, np.full(len(targets), MEAN)))
    spread = np.std([rmse.expected for rmse in found], ddof=1)
    assert np.mean([rmse.standard_error for rmse in found]) == pytest.approx(spread, rel=0.4)


@pytest.fixture(scope="module")
def by_drift():
    """(Bayes, static) RMSE given all, the last ten and no earlier ratings, at two drifts."""
    found = {}
    for drift in (0.0, 0.3):
        truth = Sample(drift=drift).truth()
        targets, visible = last_tenth(truth)
        seen = {"all": visible, "last": [rows[-10:] for rows in visible], "none": [rows[:0] for rows in visible]}
        for name, histories in seen.items():
            found[drift, name] = bayes_rmse(truth, targets, histories), static_rmse(truth, targets, histories)
        found[drift, "floor"] = noise_floor(truth, targets)
    return found


@pytest.mark.slow
def test_the_best_static_estimator_turns_to_the_last_ten_under_drift(by_drift):
    static = {key: value[1].expected for key, value in by_drift.items() if key[1] != "floor"}
    assert static[0.0, "all"] < static[0.0, "last"] - 0.05
    assert static[0.3, "last"] < static[0.3, "all"] - 0.05


@pytest.mark.slow
def test_the_bayes_prediction_never_loses_by_seeing_more(by_drift):
    for drift in (0.0, 0.3):
        bayes = {name: by_drift[drift, name][0].expected for name in ("all", "last", "none")}
        assert by_drift[drift, "floor"] < bayes["all"] < bayes["last"] < bayes["none"] - 0.2
    # Under drift the last ten tell almost all.
    assert by_drift[0.3, "last"][0].expected - by_drift[0.3, "all"][0].expected < 0.02


@pytest.mark.slow
def test_no_static_estimator_beats_bayes(by_drift):
    for drift in (0.0, 0.3):
        for name in ("all", "last", "none"):
            bayes, static = by_drift[drift, name]
            assert bayes.expected < static.expected + 0.001
    # Without drift the static estimator lacks only the exact treatment of rounding and clipping.
    assert by_drift[0.0, "all"][1].expected - by_drift[0.0, "all"][0].expected < 0.01
