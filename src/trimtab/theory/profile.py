"""The log-odds profile: all that the exact frontier of a world depends on, however large it is.

Let A, B, R be the context masses of task, proxy and original data, p, q, o their conditionals, and
c = A/B, r = Ap/(Bq) the odds of task over proxy. With S(v) = log(1 + eᵛ) and ℓ = −log λ,

    P_λ = (Ap + λBq) / (A + λB),   −log P_λ = −log q − S(log r + ℓ) + S(log c + ℓ)   where p, q > 0,

so that each gap is an affine function of ℓ plus a weighted sum of S(z + ℓ), one z per context and
per pair: the world enters only through three signed measures on the line of log-odds z. They are
stored as moments over bins of width 1/32, and S is expanded to seventh order within a bin, which
leaves an error below 1e-16 (max |S⁽⁷⁾| / (7! 64⁷)). One pass over the arrays builds the profile;
after it a penalty costs microseconds, whatever the size of the world.

When the penalty favours the task the same is written from the task's side, with −z and ℓ = log λ:
whichever gap is small is then a sum of small terms rather than a difference of large ones.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trimtab.theory.world import Array, Distribution, check_same_world, divergence, follow, visible

BINS_PER_UNIT = 32
ORDER = 7
LARGEST_LOG = 709.0  # of a finite double
# Pairs per chunk: a dozen arrays of this length stay in the cache.
CHUNK = 1 << 15

ALIGNMENT, PROXY, CAPABILITY = 0, 1, 2


@dataclass(frozen=True)
class _Side:
    """The affine part of the three gaps, and the direction of z, from one side's point of view."""

    constants: Array
    slopes: Array
    direction: float


class Profile:
    """Three gaps as functions of log λ: alignment, proxy, capability, in nats.

    Args:
        task, proxy, original: D_f, D_ŝ and D_s of one world. Where neither task nor proxy has
            mass any model is optimal, and the uniform one stands for them all.

    Raises:
        ValueError: if the three live in worlds of different shape.

    Source: derived here from Lemma 0.
    """

    def __init__(self, task: Distribution, proxy: Distribution, original: Distribution) -> None:
        check_same_world(task, proxy, original)
        # Bins from self._lowest on: signed moments, and for each gap the mass that went in.
        self._lowest = 0
        self._histogram = np.zeros((3, ORDER + 1, 0))
        self._from_proxy = _Side(np.zeros(3), np.zeros(3), 1.0)
        self._from_task = _Side(np.zeros(3), np.zeros(3), -1.0)

        shared = task.support & proxy.support
        self._balance = (
            math.log(task.contexts[shared].sum()) - math.log(proxy.contexts[shared].sum())
            if shared.any()
            else 0.0
        )
        contexts, responses = task.shape
        rows = max(1, CHUNK // responses)
        for start in range(0, contexts, rows):
            chunk = slice(start, start + rows)
            self._add(*((d.contexts[chunk], d.responses[chunk]) for d in (task, proxy, original)))
        self._compress()

    def gaps(self, log_penalties: Array) -> Array:
        """(alignment, proxy, capability) gap at each λ = exp(log_penalty), shapes (K,) to (K, 3).

        Minus infinity and infinity are limits.
        """
        values = np.empty((len(log_penalties), 3))
        rows = max(1, CHUNK // max(1, len(self._nodes)))
        for start in range(0, len(values), rows):
            some = slice(start, start + rows)
            logs = log_penalties[some]
            favours_proxy = logs >= self._balance
            values[some][favours_proxy] = self._gaps_from(self._from_proxy, -logs[favours_proxy])
            values[some][~favours_proxy] = self._gaps_from(self._from_task, logs[~favours_proxy])
        rounded: Array = np.maximum(values, 0.0)
        return rounded

    def _gaps_from(self, side: _Side, offsets: Array) -> Array:
        affine = np.tile(side.constants, (len(offsets), 1))
        sloped = side.slopes != 0
        affine[:, sloped] += np.multiply.outer(offsets, side.slopes[sloped])
        expansion = _softplus_derivatives(side.direction * self._nodes + offsets[:, None])
        moments = self._moments[side.direction].transpose(1, 2, 0)
        curved: Array = (expansion @ moments).sum(axis=0)
        return affine + curved

    def _gap(self, gap: int, log_penalty: float) -> float:
        return float(self.gaps(np.array([log_penalty]))[0, gap])

    def first_penalty(self, gap: int, budget: float) -> float:
        """inf{λ : gap ≤ budget}, to 1e-12 nats of the budget; infinite if no finite λ will do.

        Walks from the left. Where |G''| ≤ C in log λ, no crossing can lie between an excess
        e = G − budget with slope G' and the root h of e + G'h − ½ C h²: the steps never jump over
        one, and near one they are Newton's. C = ½ holds everywhere; `_slope_and_curvature` has a
        C for one unit of log λ, which makes the longer steps where the gap is small.
        """
        if self._gap(gap, -math.inf) <= budget:
            return 0.0
        constant = float(self._from_task.constants[gap])
        slope = float(self._from_task.slopes[gap])
        if constant == math.inf or len(self._nodes) == 0:
            return math.inf
        # Forty units beyond the outermost node every S is affine to rounding.
        leftmost = float(self._nodes[0]) - 40.0
        right = min(float(self._nodes[-1]) + 40.0, LARGEST_LOG)
        if slope < 0 and constant + slope * leftmost <= budget:
            return _penalty((budget - constant) / slope)
        log_penalty = leftmost
        while log_penalty < right:
            excess = self._gap(gap, log_penalty) - budget
            if excess <= 1e-12:
                return _penalty(log_penalty)
            slope, curvature = self._slope_and_curvature(log_penalty, gap)
            anywhere = _safe_step(excess, slope, 0.5)
            nearby = min(1.0, _safe_step(excess, slope, curvature))
            log_penalty += max(anywhere, nearby)
        return math.inf

    def _slope_and_curvature(self, log_penalty: float, gap: int) -> tuple[float, float]:
        """G' at log λ, and a bound on |G''| within one unit of it.

        Where z leaves a bin's centre by t, S'' is expanded like S. Its first five derivatives are
        at most S'' itself, which changes by a factor of at most e over one unit.
        """
        favours_proxy = log_penalty >= self._balance
        side = self._from_proxy if favours_proxy else self._from_task
        offset = -side.direction * log_penalty
        expansion = _softplus_derivatives(side.direction * self._nodes + offset)
        moments = self._moments[side.direction][gap]
        along_offset = side.slopes[gap] + np.einsum("jn,jn", moments[:-1], expansion[1:])
        curvature = math.e * float(self._weights[gap] @ expansion[2])
        return -side.direction * float(along_offset), curvature

    def _add(
        self,
        task: tuple[Array, Array],
        proxy: tuple[Array, Array],
        original: tuple[Array, Array],
    ) -> None:
        (a, p), (b, q), (r, o) = task, proxy, original
        shared = (a > 0) & (b > 0)
        if not shared.all():
            alone = (r > 0) & ~shared
            fixed = follow(a[alone], p[alone], b[alone], q[alone])
            cost = r[alone] @ divergence(o[alone], fixed)
            self._from_proxy.constants[ALIGNMENT] += cost
            self._from_task.constants[ALIGNMENT] += cost
            a, p, b, q, r, o = (array[shared] for array in (a, p, b, q, r, o))
        if len(a):
            self._add_shared(a, p, b, q, r, o)

    def _add_shared(self, a: Array, p: Array, b: Array, q: Array, r: Array, o: Array) -> None:
        has_p, has_q = p > 0, q > 0
        has_both = has_p & has_q
        log_c = np.log(a) - np.log(b)
        log_p, log_q, log_o = (np.log(np.where(x > 0, x, 1.0)) for x in (p, q, o))
        joint_p, joint_q, joint_o = a[:, None] * p, b[:, None] * q, r[:, None] * o
        has_o = (r > 0)[:, None] & (o > 0)
        if np.any(has_o & ~has_p & ~has_q):
            self._from_proxy.constants[ALIGNMENT] = math.inf
            self._from_task.constants[ALIGNMENT] = math.inf

        # log P_λ without its S terms: q's logarithm, or p's with the odds where q has nothing.
        near_q = np.where(has_q, log_q, log_p + log_c[:, None])
        near_p = np.where(has_p, log_p, log_q - log_c[:, None])
        self._from_proxy.constants[ALIGNMENT] += np.vdot(joint_o, log_o - near_q)
        self._from_proxy.constants[CAPABILITY] += np.vdot(joint_p, log_p - near_q)
        self._from_task.constants[ALIGNMENT] += np.vdot(joint_o, log_o - near_p)
        self._from_task.constants[PROXY] += np.vdot(joint_q, log_q - near_p)
        if not has_both.all():
            only_p, only_q = has_p & ~has_q, has_q & ~has_p
            self._from_proxy.slopes[ALIGNMENT] -= _mass(joint_o, has_o & only_p)
            self._from_proxy.slopes[CAPABILITY] -= _mass(joint_p, only_p)
            self._from_task.slopes[ALIGNMENT] -= _mass(joint_o, has_o & only_q)
            self._from_task.slopes[PROXY] -= _mass(joint_q, only_q)

        self._deposit(log_c, r.copy(), b.copy(), a.copy())
        log_odds = log_p - log_q + log_c[:, None]
        joints = (joint_o, joint_q, joint_p)
        if has_both.all():
            self._deposit(log_odds.ravel(), *(-joint.ravel() for joint in joints))
        elif has_both.any():
            self._deposit(log_odds[has_both], *(-joint[has_both] for joint in joints))

    def _deposit(self, z: Array, *weights: Array) -> None:
        """Add Σ w tʲ/j! to the bin of each z, t being its distance from the centre; spoils w."""
        nearest = np.rint(z * BINS_PER_UNIT)
        distance = z - nearest / BINS_PER_UNIT
        bins = nearest.astype(np.intp)
        lowest, highest = int(bins.min()), int(bins.max())
        bins -= lowest
        window = self._window(lowest, highest)
        for weight, histogram in zip(weights, window, strict=True):
            for order in range(ORDER):
                counts = np.bincount(bins, weight)
                histogram[order] += counts / math.factorial(order)
                if order == 0:
                    # Contexts weigh positive, pairs negative: each deposit has one sign.
                    histogram[ORDER] += np.abs(counts)
                weight *= distance

    def _window(self, lowest: int, highest: int) -> Array:
        """The bins lowest to highest of the histogram, which grows to hold them."""
        width = self._histogram.shape[-1]
        first = min(lowest, self._lowest) if width else lowest
        last = max(highest, self._lowest + width - 1) if width else highest
        if last - first + 1 > width:
            grown = np.zeros((3, ORDER + 1, last - first + 1))
            grown[..., self._lowest - first : self._lowest - first + width] = self._histogram
            self._histogram, self._lowest = grown, first
        return self._histogram[..., lowest - self._lowest : highest - self._lowest + 1]

    def _compress(self) -> None:
        """Keep the bins that hold something."""
        filled = np.flatnonzero(self._histogram[:, ORDER].any(axis=0))
        filled_bins = self._histogram[..., filled]
        moments, masses = np.ascontiguousarray(filled_bins[:, :ORDER]), filled_bins[:, ORDER]
        signs = (-1.0) ** np.arange(ORDER)
        # Within a bin contexts and pairs cancel, up to the expansion's fifth order: t⁵/5! < 1e-11.
        self._weights = np.abs(moments[:, :5]).sum(axis=1) + 1e-11 * masses
        self._nodes: Array = (filled + self._lowest) / BINS_PER_UNIT
        self._moments = {1.0: moments, -1.0: moments * signs[:, None]}
        del self._histogram


def _mass(joint: Array, pairs: NDArray[np.bool_]) -> float:
    return visible(float(joint[pairs].sum()), pairs.any())


def _penalty(log_penalty: float) -> float:
    """λ itself; where doubles grow coarse the next larger one, whose gap is no larger."""
    rounded = math.exp(log_penalty)
    return rounded if rounded >= sys.float_info.min else math.nextafter(rounded, 1.0)


def _safe_step(excess: float, slope: float, curvature: float) -> float:
    """The positive root h of excess + slope h − ½ curvature h²; infinite if there is none."""
    pace = math.sqrt(slope**2 + 2.0 * curvature * excess) - slope
    return 2.0 * excess / pace if pace > 0 else math.inf


def logistic(v: Array) -> Array:
    """S'(v) = 1 / (1 + e⁻ᵛ), to its last digit however small."""
    decay = np.exp(-np.abs(v))
    share: Array = np.where(v >= 0, 1.0, decay) / (1.0 + decay)
    return share


def _softplus_derivatives(v: Array) -> Array:
    """S, S', …, S⁽⁶⁾ at v, stacked, as polynomials in s = S'(v), y = s(1 − s), d = 1 − 2s."""
    decay = np.exp(-np.abs(v))
    s = logistic(v)
    y = decay / (1.0 + decay) ** 2
    d = np.where(v >= 0, -1.0, 1.0) * (1.0 - decay) / (1.0 + decay)
    return np.stack(
        [
            np.log1p(decay) + np.maximum(v, 0.0),
            s,
            y,
            y * d,
            y * (1.0 - 6.0 * y),
            y * d * (1.0 - 12.0 * y),
            y * (1.0 - 30.0 * y + 120.0 * y**2),
        ]
    )
