"""The landscape at θ_s: slope and curvature of both losses, and the basin round it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

from trimtab.errors import UserError
from trimtab.measure.token_loss import (
    Direction,
    TokenLoss,
    inner,
    length,
    random_direction,
    scaled,
)
from trimtab.stats import Estimate, jackknife

PER_DISTANCE = "nats per token per unit of distance"
PER_SQUARE = "nats per token per square unit of distance"

PARTS = 4
_TOLERANCE = 0.01
_BASIS = 20
_RESTARTS = 10
_STEPS = 12
_PRECISION = np.float32


@dataclass(frozen=True)
class Slope:
    """∇L(θ_s): its length and its direction."""

    norm: Estimate
    gradient: Direction


@dataclass(frozen=True)
class LossProfile:
    """L at θ_s + t·u for rising t along one direction u."""

    direction: str
    distances: tuple[float, ...]
    losses: tuple[float, ...]

    def reaches(self, rise: float) -> float:
        """The first distance at which L has risen by `rise`, between steps on a line; else ∞.

        >>> LossProfile("ahead", (0.0, 1.0, 2.0), (3.0, 3.0, 5.0)).reaches(1.0)
        1.5
        """
        for before in range(len(self.losses) - 1):
            low, high = (loss - self.losses[0] for loss in self.losses[before : before + 2])
            if high >= rise:
                share = (rise - low) / (high - low)
                nearer, farther = self.distances[before : before + 2]
                return nearer + share * (farther - nearer)
        return math.inf


@dataclass(frozen=True)
class TaskSide:
    """L_f at θ_s: ‖∇L_f‖, the top of its Hessian, and cos(∇L_ŝ, ∇L_f).

    Below 0 a first small step on the task lowers the task loss and raises the safety loss.
    """

    loss: float
    slope: Estimate
    curvature: Estimate
    cosine: Estimate
    downhill: Direction
    """The unit direction of −∇L_f."""


@dataclass(frozen=True)
class Landscape:
    """What Theorems 3 and 4 take from a model, on one space of weights, per token.

    `walks` are the safety loss as measured down each task's gradient, up its own, which is the
    worst direction at first, and along random ones.
    """

    weights: int
    rows: int
    safety_loss: float
    safety_slope: Estimate
    safety_curvature: Estimate
    tasks: Mapping[str, TaskSide]
    walks: tuple[LossProfile, ...]

    def loss_profile_down(self, task: str) -> LossProfile:
        """The walk down the gradient of a task."""
        return next(walk for walk in self.walks if walk.direction == _downhill(task))


@dataclass(frozen=True)
class PartGradients:
    """∇L of interleaved parts of the rows, and the tokens of each, shape (parts,)."""

    gradients: Sequence[Direction]
    tokens: NDArray[np.float64]


def slope(loss: TokenLoss) -> tuple[Slope, PartGradients]:
    """∇L and the gradients of four interleaved parts of the rows that its interval comes from.

    The interval is the jackknife's over the parts, with Student's t. The norm of a mean gradient
    errs high: what the rows do not agree on adds to its length, the more the fewer they are.

    Raises:
        UserError: there are fewer rows than parts.
    """
    parts = _parts(loss)
    gradients = [part.gradient() for part in parts]
    tokens = np.array([part.tokens for part in parts], dtype=float)
    whole = _weighted(gradients, tokens / tokens.sum())
    gram = _gram(gradients, gradients)
    value, error = jackknife(lambda mask: _norm(gram, tokens * mask), PARTS)
    norm = Estimate(value, max(0.0, value - error), value + error, PER_DISTANCE, "estimate")
    return Slope(norm, whole), PartGradients(gradients, tokens)


def cosine_between(safety: PartGradients, task: PartGradients) -> Estimate:
    """cos(∇L_ŝ, ∇L_f), from the gradients of the parts; errs towards 0 when rows are few."""
    across = _gram(safety.gradients, task.gradients)
    safety_gram = _gram(safety.gradients, safety.gradients)
    task_gram = _gram(task.gradients, task.gradients)

    def value(mask: NDArray[np.float64]) -> float:
        ours, theirs = safety.tokens * mask, task.tokens * mask
        norms = _norm(safety_gram, ours) * _norm(task_gram, theirs)
        return float(ours @ across @ theirs / (ours.sum() * theirs.sum())) / max(norms, 1e-30)

    cosine, error = jackknife(value, PARTS)
    low, high = max(-1.0, cosine - error), min(1.0, cosine + error)
    return Estimate(cosine, low, high, "cosine", "estimate")


def curvature(loss: TokenLoss, progress: Callable[[int], None] = lambda _: None) -> Estimate:
    """The eigenvalue of ∇²L(θ_s) of largest magnitude, by Lanczos (SciPy's ARPACK).

    To 1 % of itself, then too near to 0. Its interval is that of vᵀ∇²L_k v over four parts k of
    the rows, v its eigenvector. It is local: away from θ_s the curvature may be larger, so that an
    H taken from it errs low. `progress` hears how many Hessian-vector products there are by now.

    Raises:
        UserError: it did not settle within about 200 Hessian-vector products, or there are fewer
            rows than parts.
    """
    shapes = [weight.shape for weight in loss.weights]
    kind = loss.weights[0]
    products = 0

    def multiply(vector: NDArray[np.float64]) -> NDArray[np.float64]:
        nonlocal products
        products += 1
        progress(products)
        return _flat(loss.curvature_along(_shaped(vector, shapes, kind)))

    size = sum(shape.numel() for shape in shapes)
    start = np.random.default_rng(0).standard_normal(size).astype(_PRECISION)
    operator = LinearOperator((size, size), matvec=multiply, dtype=_PRECISION)
    try:
        values, vectors = eigsh(
            operator,
            k=1,
            which="LM",
            v0=start,
            ncv=min(size - 1, _BASIS),
            tol=_TOLERANCE,
            maxiter=_RESTARTS,
        )
    except ArpackNoConvergence:
        raise UserError(
            "the curvature did not settle: no eigenvalue stands out on these rows. Give more "
            "landscape rows, or leave the landscape out."
        ) from None
    top = _shaped(vectors[:, 0], shapes, kind)
    parts = _parts(loss)
    shares = np.array([part.tokens for part in parts], dtype=float)
    bends = np.array([float(inner(top, part.curvature_along(top))) for part in parts])
    _, error = jackknife(lambda mask: float((shares * mask) @ bends / (shares * mask).sum()), PARTS)
    value = float(values[0])
    return Estimate(value, value - error, value + error, PER_SQUARE, "estimate")


def landscape(
    safety: TokenLoss,
    tasks: Mapping[str, TokenLoss],
    budgets: tuple[float, float] = (0.01, 2.0),
    random_directions: int = 2,
    seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
    curvature_of: Callable[[str, TokenLoss], Estimate] = lambda _, loss: curvature(loss),
) -> Landscape:
    """Slopes, curvatures and the basin at θ_s, over the same weights for every loss.

    The walks go down each task's gradient, which is where plain fine-tuning sets out to, up the
    safety loss's own, which is the worst at first, and along random directions: from the ε that
    Theorem 3 allows for the smaller of `budgets` by factors of 2 to where the safety loss has risen
    by the larger, in at most 12 steps.

    Args:
        curvature_of: the `curvature` of a loss by its name, which takes most of the time, for who
            keeps those that are known.

    Source: safety against distance, Peng et al., "Navigating the Safety Landscape", NeurIPS 2024,
    arXiv 2405.17374 (there along random directions, in units relative to each layer).
    """
    progress("slope of the safety loss")
    safety_slope, safety_parts = slope(safety)
    sides = {}
    for name, task in tasks.items():
        progress(f"slope of {name}")
        task_slope, task_parts = slope(task)
        sides[name] = TaskSide(
            task.value(),
            task_slope.norm,
            curvature_of(name, task),
            cosine_between(safety_parts, task_parts),
            scaled(task_slope.gradient, -1 / max(length(task_slope.gradient), 1e-30)),
        )
    del safety_parts
    safety_curvature = curvature_of("the safety loss", safety)
    directions = {_downhill(name): side.downhill for name, side in sides.items()}
    worst = scaled(safety_slope.gradient, 1 / max(length(safety_slope.gradient), 1e-30))
    directions["up the gradient of the safety loss"] = worst
    for number in range(random_directions):
        directions[f"random direction {number + 1}"] = random_direction(
            safety.weights, seed + number
        )
    start = safety.value()
    first = largest_radius(budgets[0], safety_slope.norm.value, abs(safety_curvature.value))
    walks = []
    for name, direction in directions.items():
        progress(f"walk {name}")
        walks.append(_walk(safety, name, direction, start, first, budgets[1]))
    return Landscape(
        sum(weight.numel() for weight in safety.weights),
        safety.rows,
        start,
        safety_slope.norm,
        safety_curvature,
        sides,
        tuple(walks),
    )


def _downhill(task: str) -> str:
    return f"down the gradient of {task}"


def largest_radius(budget: float, gradient_norm: float, smoothness: float) -> float:
    """The largest ε with gε + ½Hε² ≤ budget, Theorem 3 solved for ε.

    >>> largest_radius(0.5, gradient_norm=0.0, smoothness=1.0)
    1.0
    >>> largest_radius(0.5, gradient_norm=2.0, smoothness=0.0)
    0.25
    """
    if gradient_norm == 0 and smoothness == 0:
        return math.inf
    # 2b / (g + √(g² + 2Hb)): no difference of near numbers.
    return 2 * budget / (gradient_norm + math.sqrt(gradient_norm**2 + 2 * smoothness * budget))


def _parts(loss: TokenLoss) -> list[TokenLoss]:
    if loss.rows < PARTS:
        raise UserError(
            f"slope and curvature take their intervals from {PARTS} parts of the rows, and there "
            f"are {loss.rows} rows. Give {PARTS} at least, or leave the landscape out."
        )
    return [loss.part(number, PARTS) for number in range(PARTS)]


def _walk(
    loss: TokenLoss, name: str, direction: Direction, start: float, first: float, enough: float
) -> LossProfile:
    distances, losses = [0.0], [start]
    for number in range(_STEPS):
        distance = first * 2.0**number
        with loss.moved(direction, distance):
            value = loss.value()
        if not math.isfinite(value):
            break
        distances.append(distance)
        losses.append(value)
        if value - start > enough:
            break
    return LossProfile(name, tuple(distances), tuple(losses))


def _weighted(gradients: Sequence[Direction], shares: NDArray[np.float64]) -> Direction:
    return [
        torch.stack([share * part for share, part in zip(shares, parts, strict=True)]).sum(dim=0)
        for parts in zip(*gradients, strict=True)
    ]


def _gram(first: Sequence[Direction], second: Sequence[Direction]) -> NDArray[np.float64]:
    return np.array([[float(inner(u, v)) for v in second] for u in first])


def _norm(gram: NDArray[np.float64], shares: NDArray[np.float64]) -> float:
    return float(max(0.0, shares @ gram @ shares / shares.sum() ** 2)) ** 0.5


def _flat(direction: Direction) -> NDArray[np.float64]:
    flat: NDArray[np.float64] = (
        torch.cat([part.reshape(-1) for part in direction]).to(torch.float32).cpu().numpy()
    )
    return flat


def _shaped(
    vector: NDArray[np.float64], shapes: Sequence[torch.Size], kind: torch.Tensor
) -> Direction:
    flat = torch.from_numpy(np.ascontiguousarray(vector.reshape(-1))).to(kind)
    sizes = [shape.numel() for shape in shapes]
    return [part.reshape(shape) for part, shape in zip(flat.split(sizes), shapes, strict=True)]
