"""The particle filter of `mlens.data.sample_bayes`: the posterior of a user's state given rounded ratings."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtr, ndtri

from mlens.data.raw import HALF_STARS
from mlens.data.sample import SPREAD, Truth

_SCALE = np.array(HALF_STARS)
_CUTS = (_SCALE[1:] + _SCALE[:-1]) / 2
# A rating's interval of latent ratings is (_BELOW[k], _ABOVE[k]), with k its index in the scale.
_BELOW = np.append(-np.inf, _CUTS)
_ABOVE = np.append(_CUTS, np.inf)


def rating_moments(mean: np.ndarray, deviation: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    """Compute mean and variance of the rating whose latent rating is N(mean, deviation²). Exact; broadcasts.

    With cuts c_k between the legal ratings, of step h from r_0: E r = r_0 + h Σ_k P(latent > c_k), and likewise for r²
    with the steps r_k² - r_{k-1}².
    """
    mean, deviation = np.asarray(mean), np.asarray(deviation)
    first = np.full(np.broadcast_shapes(mean.shape, deviation.shape), _SCALE[0])
    second = first**2
    for cut, low, high in zip(_CUTS, _SCALE, _SCALE[1:], strict=False):
        above = ndtr((mean - cut) / deviation)
        first += (high - low) * above
        second += (high**2 - low**2) * above
    return first, second - first**2


class Filters:
    """`repeats` particle filters for each target, targets ordered by descending history length.

    Rao-Blackwellised (Doucet, de Freitas, Murphy and Russell 2000): a particle is a path of latent ratings, given which
    the state is Gaussian (Kalman filter). Fully adapted (Pitt and Shephard 1999): a particle is weighted by the
    probability of the next rounded rating before it draws its latent rating from the interval.

    A step updates the first `active` targets.

    mean [targets, repeats, particles, d]: the state's mean given each particle's latent ratings.
    covariance [targets, d, d]: of the state; it doesn't depend on the latent ratings, so particles share it.
    weight [targets, repeats, particles]: sums to 1 over particles.
    now [targets]: the step of the state.
    """

    def __init__(
        self, truth: Truth, start: np.ndarray, repeats: int, particles: int, generator: np.random.Generator
    ) -> None:
        shape = len(start), repeats, particles
        self.truth, self.generator = truth, generator
        self.mean = np.zeros((*shape, len(SPREAD)))
        self.covariance = np.tile(np.diag(SPREAD**2), (len(start), 1, 1))
        self.weight = np.full(shape, 1 / particles)
        self.now = start.copy()

    def advance(self, active: int, to: np.ndarray) -> None:
        """Advance the state to step `to` [active] of the user's sequence."""
        kept = (1 - self.truth.drift**2) ** ((to - self.now[:active]) / 2)
        prior = np.diag(SPREAD**2)
        self.mean[:active] *= kept[:, None, None, None]
        self.covariance[:active] = prior + (kept**2)[:, None, None] * (self.covariance[:active] - prior)
        self.now[:active] = to

    def latent(self, active: int, row: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the latent rating's mean by particle, variance and covariance with the state, for `row` [active]."""
        loading = self.truth.loading[self.truth.movie[row]]
        with_state = np.einsum("tde,te->td", self.covariance[:active], loading)
        variance = (loading * with_state).sum(axis=1) + self.truth.noise**2
        mean = self.truth.base[row][:, None, None] + np.einsum("trpd,td->trp", self.mean[:active], loading)
        return mean, variance, with_state

    def observe(self, active: int, row: np.ndarray) -> None:
        """Condition on the rounded rating in `row` [active]."""
        self.advance(active, self.truth.step[row])
        mean, variance, with_state = self.latent(active, row)
        deviation = np.sqrt(variance)[:, None, None]
        level = np.searchsorted(_CUTS, self.truth.rating[row])
        low = (_BELOW[level][:, None, None] - mean) / deviation
        high = (_ABOVE[level][:, None, None] - mean) / deviation
        # Mirrored in the upper half, where the distribution function is too close to 1 for floating point.
        side = np.where(low + high > 0, -1.0, 1.0)
        bottom = ndtr(np.where(side < 0, -high, low))
        mass = np.maximum(ndtr(np.where(side < 0, -low, high)) - bottom, 1e-300)

        weight = self.weight[:active] * mass
        weight /= weight.sum(axis=2, keepdims=True)
        uneven = (weight**2).sum(axis=2) > 2 / weight.shape[2]  # effective sample size below half of the particles
        if uneven.any():
            source = _resample(weight[uneven], self.generator)
            for values in (side, bottom, mass):
                values[uneven] = np.take_along_axis(values[uneven], source, axis=1)
            self.mean[:active][uneven] = np.take_along_axis(self.mean[:active][uneven], source[:, :, None], axis=1)
            mean[uneven] = np.take_along_axis(mean[uneven], source, axis=1)
            weight[uneven] = 1 / weight.shape[2]
        self.weight[:active] = weight

        drawn = side * ndtri(bottom + mass * self.generator.random(mass.shape))  # (latent rating - mean) / deviation
        gain = with_state / np.sqrt(variance)[:, None]
        self.mean[:active] += drawn[..., None] * gain[:, None, None, :]
        self.covariance[:active] -= gain[:, :, None] * gain[:, None, :]

    def expected_rating(self, targets: np.ndarray) -> np.ndarray:
        """Return each filter's posterior mean of the rating in each row of `targets`: [targets, repeats]."""
        self.advance(len(targets), self.truth.step[targets])
        mean, variance, _ = self.latent(len(targets), targets)
        return (self.weight * rating_moments(mean, np.sqrt(variance)[:, None, None])[0]).sum(axis=2)


def _resample(weight: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Resample each row of `weight` [n, particles] systematically; return the particle that each new one copies."""
    n, particles = weight.shape
    point = (np.arange(particles) + generator.random((n, 1))) / particles
    # One sorted search for all rows: row i lies in (i, i + 1].
    offset = np.arange(n)[:, None]
    found = np.searchsorted((weight.cumsum(axis=1) + offset).ravel(), (point + offset).ravel()).reshape(n, particles)
    return np.clip(found - particles * offset, 0, particles - 1)
