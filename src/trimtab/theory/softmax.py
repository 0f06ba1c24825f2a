"""A softmax model over a finite world: Case II with every constant and every optimum computable."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from trimtab.theory.bounds import check_non_negative
from trimtab.theory.world import Array, Distribution

# Below this share of the penalty that certainly keeps the solution inside the ball, the penalised
# solution counts as the free one: it gives away at most this share of ½ ‖∇L_f‖ ε.
FREE = 1e-10
NEWTON_STEPS = 500


@dataclass(frozen=True, eq=False)
class SoftmaxModel:
    """P_W(y|x) = exp(φ(x)·W_y) / Σ_z exp(φ(x)·W_z), W of shape (d, V), norms Frobenius.

    Its losses are convex in W. With linearly independent features (`unrestricted`) it comes as
    near as one likes to every conditional distribution, and A2 holds in the limit.

    Args:
        features: φ(x), shape (N, d).

    Raises:
        ValueError: unless features is a finite array of shape (N, d).

    >>> model = SoftmaxModel(np.eye(2))
    >>> world = Distribution([0.5, 0.5], [[1.0, 0.0], [0.5, 0.5]])
    >>> round(model.loss(world, np.zeros((2, 2))), 4)
    0.6931
    >>> model.smoothness(world), model.unrestricted
    (0.25, True)
    """

    features: Array

    def __post_init__(self) -> None:
        features = np.array(self.features, dtype=np.float64)
        if features.ndim != 2 or not np.isfinite(features).all():
            raise ValueError(
                f"features has shape {features.shape}: give finite numbers of shape (N, d)."
            )
        features.setflags(write=False)
        object.__setattr__(self, "features", features)

    @property
    def unrestricted(self) -> bool:
        """Whether the closure of the class holds every conditional distribution."""
        return int(np.linalg.matrix_rank(self.features)) == len(self.features)

    def probabilities(self, weights: ArrayLike) -> Array:
        """P_W(y|x), shape (N, V)."""
        return np.exp(self._log_probabilities(weights))

    def loss(self, data: Distribution, weights: ArrayLike) -> float:
        """L_D(W), in nats per response."""
        joint = self._joint(data)
        return -float(np.vdot(joint, self._log_probabilities(weights)))

    def gradient(self, data: Distribution, weights: ArrayLike) -> Array:
        """∇L_D(W) = E_x φ(x) (P_W(·|x) − D(·|x))ᵀ, shape (d, V)."""
        excess = data.contexts[:, None] * self.probabilities(weights) - self._joint(data)
        slope: Array = self.features.T @ excess
        return slope

    def hessian(self, data: Distribution, weights: ArrayLike) -> Array:
        """∇²L_D(W) = E_x φφᵀ ⊗ (diag P − PPᵀ), shape (dV, dV), W flattened row by row."""
        p = self.probabilities(weights)
        spread = p[:, :, None] * (np.eye(p.shape[1]) - p[:, None, :])
        size = self.features.shape[1] * p.shape[1]
        curvature: Array = np.einsum(
            "n,ni,nj,nyz->iyjz", data.contexts, self.features, self.features, spread, optimize=True
        )
        return curvature.reshape(size, size)

    def smoothness(self, data: Distribution) -> float:
        """H = ½ λ_max(E_x φφᵀ), no smaller than the Hessian's norm anywhere.

        diag P − PPᵀ has norm at most ½, by Gershgorin: p(1 − p) on the diagonal and as much beside
        it. Two equally likely responses reach it.
        """
        second_moment = self.features.T @ (data.contexts[:, None] * self.features)
        return 0.5 * float(np.linalg.eigvalsh(second_moment)[-1])

    def lipschitz(self, data: Distribution) -> float:
        """K = E_x ‖φ‖ √(1 + ‖D(·|x)‖² − 2 min_y D(y|x)), no smaller than the gradient anywhere.

        ‖P − D(·|x)‖ is convex in P, hence largest where P puts all on the response least in D.
        """
        rows = np.where(data.support[:, None], data.responses, 0.0)
        farthest = np.sqrt(1.0 + (rows**2).sum(axis=1) - 2.0 * rows.min(axis=1))
        return float(data.contexts @ (np.linalg.norm(self.features, axis=1) * farthest))

    def penalty_solution(self, task: Distribution, start: ArrayLike, penalty: float) -> Array:
        """argmin_W L_f(W) + λ‖W − W_s‖², by Newton's method to rounding, shape (d, V).

        Raises:
            ValueError: unless the penalty is positive: without one a minimum need not exist.
        """
        if not 0 < penalty < np.inf:
            raise ValueError(f"penalty is {penalty}: give a positive, finite number.")
        origin = np.array(start, dtype=np.float64)
        return self._newton(task, origin, origin, penalty)

    def ball_solution(self, task: Distribution, start: ArrayLike, radius: float) -> Array:
        """argmin_W L_f(W) over ‖W − W_s‖ ≤ ε, shape (d, V).

        The penalised solutions run through those of all balls: the penalty sought is the one whose
        solution lies at distance ε. If even a vanishing one stays inside, the ball does not bind.

        Raises:
            ValueError: if the radius is negative, NaN or infinite.
        """
        check_non_negative(radius=radius)
        if radius == np.inf:
            raise ValueError("radius is inf: without a ball a minimum need not exist.")
        from scipy.optimize import brentq  # a third of a second that nothing else here needs

        origin = np.array(start, dtype=np.float64)
        slope = float(np.linalg.norm(self.gradient(task, origin)))
        if radius == 0 or slope == 0:
            return origin
        # Convexity keeps the penalised solution within slope / (2 λ) of the start.
        safe = slope / (2 * radius)
        warm_start = origin

        def beyond(log_share: float) -> float:
            nonlocal warm_start
            warm_start = self._newton(task, origin, warm_start, safe * np.exp(log_share))
            return float(np.linalg.norm(warm_start - origin)) / radius - 1.0

        low = -2.0
        while beyond(low) <= 0:
            if low < np.log(FREE):
                return warm_start
            low -= 2.0
        high = low + 2.0
        # Where the loss is linear to rounding, the safe penalty's solution is at the radius itself.
        if beyond(high) < 0:
            high = brentq(beyond, low, high, xtol=1e-14, rtol=1e-15)
        share = float(np.exp(high))
        solution = self._newton(task, origin, warm_start, safe * share)
        step = solution - origin
        return origin + step * min(1.0, radius / float(np.linalg.norm(step)))

    def _newton(self, task: Distribution, origin: Array, initial: Array, penalty: float) -> Array:
        def objective(weights: Array) -> float:
            return self.loss(task, weights) + penalty * float(((weights - origin) ** 2).sum())

        ridge = 2 * penalty * np.eye(origin.size)
        weights, steepness = initial, np.inf
        for _ in range(NEWTON_STEPS):
            slope = self.gradient(task, weights) + 2 * penalty * (weights - origin)
            curvature = self.hessian(task, weights) + ridge
            step = np.linalg.solve(curvature, -slope.ravel()).reshape(origin.shape)
            gain = -float(np.vdot(slope, step))
            before, steepness = steepness, float(np.linalg.norm(slope))
            # Near the optimum every step squares the slope, until rounding keeps it from falling.
            if gain < 1e-16 and steepness >= 0.5 * before:
                return weights
            height = objective(weights)
            share = 1.0
            while objective(weights + share * step) > height - 1e-4 * share * gain + 1e-14:
                share *= 0.5
            weights = weights + share * step
        raise ArithmeticError(f"Newton's method has not settled: a gain of {gain:.2g} is left.")

    def _joint(self, data: Distribution) -> Array:
        if len(data.contexts) != len(self.features):
            raise ValueError(
                f"the data has {len(data.contexts)} contexts but features has "
                f"{len(self.features)} rows: give one row per context."
            )
        return data.joint()

    def _log_probabilities(self, weights: ArrayLike) -> Array:
        logits = self.features @ np.asarray(weights, dtype=np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        logs: Array = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return logs
