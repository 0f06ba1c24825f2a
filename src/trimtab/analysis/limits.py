"""What theory says of a finite world, as curves in nats per token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from trimtab.data.synthetic import World
from trimtab.theory import capability_bound, exact_frontier, oracle_frontier, safety_bound
from trimtab.theory.world import Array

LimitName = Literal[
    "exact optimum (Lemma 0)",
    "bound (Theorem 1)",
    "bounds (Theorems 1 and 2)",
    "limit no model passes (oracle)",
]
EXACT: LimitName = "exact optimum (Lemma 0)"
BOUND: LimitName = "bound (Theorem 1)"
BOTH_BOUNDS: LimitName = "bounds (Theorems 1 and 2)"
ORACLE: LimitName = "limit no model passes (oracle)"
FRONT_PENALTIES = np.geomspace(1e-4, 1e5, 400)


@dataclass(frozen=True)
class LimitCurve:
    """Points of one curve, in the order of the penalty λ; gaps in nats per token."""

    name: LimitName
    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True)
class Limits:
    """The exact curves and bounds of one world, for the proxies and tasks that it knows."""

    world: World

    def alignment_gap_curves(
        self, proxy: str, task: str, penalties: tuple[float, float]
    ) -> tuple[LimitCurve, ...]:
        """λ ↦ G_s(P_λ), and Theorem 1's bound on it, from the first penalty to the last."""
        if not self._knows(proxy, task):
            return ()
        grid = np.geomspace(*penalties, 80)
        world = self.world
        d_f, d_proxy = world.task[task], world.safety[proxy]
        frontier = exact_frontier(d_f, d_proxy, world.original, grid)
        bounds = [
            safety_bound(d_f, d_proxy, world.original, float(penalty)).value for penalty in grid
        ]
        return (
            _curve(BOUND, grid, self._per_token(np.array(bounds))),
            _curve(EXACT, grid, self._per_token(frontier.alignment_gap)),
        )

    def plane_curves(self, proxy: str, task: str) -> tuple[LimitCurve, ...]:
        """λ ↦ (G_s, G_f) at the proxy's own optimum: a trained model may fall on either side."""
        if not self._knows(proxy, task):
            return ()
        world = self.world
        frontier = exact_frontier(
            world.task[task], world.safety[proxy], world.original, FRONT_PENALTIES
        )
        return (self._in_plane(EXACT, frontier.alignment_gap, frontier.capability_gap),)

    def plane_bounds(self, proxy: str, task: str) -> tuple[LimitCurve, ...]:
        """λ ↦ (Theorem 1, Theorem 2): the optimum of each λ lies below and to the left."""
        if not self._knows(proxy, task):
            return ()
        world = self.world
        d_f, d_proxy = world.task[task], world.safety[proxy]
        penalties = FRONT_PENALTIES[::4].tolist()
        safety = [
            safety_bound(d_f, d_proxy, world.original, penalty).value for penalty in penalties
        ]
        capability = [capability_bound(d_f, d_proxy, penalty).value for penalty in penalties]
        return (self._in_plane(BOTH_BOUNDS, np.array(safety), np.array(capability)),)

    def oracle_curves(self, task: str) -> tuple[LimitCurve, ...]:
        """The Pareto front over all models in (G_s, G_f), the limit that is true of every model."""
        if task not in self.world.task:
            return ()
        front = oracle_frontier(self.world.task[task], self.world.original, FRONT_PENALTIES)
        return (self._in_plane(ORACLE, front.alignment_gap, front.capability_gap),)

    def _knows(self, proxy: str, task: str) -> bool:
        return proxy in self.world.safety and task in self.world.task

    def _in_plane(self, name: LimitName, alignment: Array, capability: Array) -> LimitCurve:
        return _curve(name, self._per_token(alignment), self._per_token(capability))

    def _per_token(self, nats_per_response: Array) -> Array:
        return nats_per_response / self.world.tokens_per_response


def _curve(name: LimitName, x: Array, y: Array) -> LimitCurve:
    finite = np.isfinite(x) & np.isfinite(y)
    return LimitCurve(name, tuple(x[finite].tolist()), tuple(y[finite].tolist()))
