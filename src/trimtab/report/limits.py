"""What theory says of a finite world, as curves in nats per token."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trimtab.data.synthetic import World
from trimtab.report.chart import Curve
from trimtab.report.palette import GREY
from trimtab.theory import capability_bound, exact_frontier, oracle_frontier, safety_bound
from trimtab.theory.world import Array

EXACT = "exact optimum (Lemma 0)"
BOUND = "bound (Theorem 1)"
BOTH_BOUNDS = "bounds (Theorems 1 and 2)"
ORACLE = "limit no model passes (oracle)"
FRONT_PENALTIES = np.geomspace(1e-4, 1e5, 400)


@dataclass(frozen=True)
class Limits:
    """The exact curves and bounds of one world, for the proxies and tasks that it knows."""

    world: World

    def alignment_gap_curves(
        self, proxy: str, task: str, penalties: tuple[float, float], colour: str
    ) -> tuple[Curve, ...]:
        """λ ↦ G_s(P_λ), and Theorem 1's bound on it, from the first penalty to the last."""
        if not self._knows(proxy, task):
            return ()
        grid = np.geomspace(*penalties, 80)
        world = self.world
        d_f, d_proxy = world.task[task], world.safety[proxy]
        frontier = exact_frontier(d_f, d_proxy, world.original, grid)
        bounds = [safety_bound(d_f, d_proxy, world.original, float(p)).value for p in grid]
        return (
            self._curve(BOUND, colour, "dot", 1.0, grid, self._per_token(np.array(bounds))),
            self._curve(EXACT, colour, "solid", 0.8, grid, self._per_token(frontier.alignment_gap)),
        )

    def plane_curves(self, proxy: str, task: str, colour: str) -> tuple[Curve, ...]:
        """λ ↦ (G_s, G_f) at the proxy's own optimum: a trained model may fall on either side."""
        if not self._knows(proxy, task):
            return ()
        world = self.world
        frontier = exact_frontier(
            world.task[task], world.safety[proxy], world.original, FRONT_PENALTIES
        )
        alignment = self._per_token(frontier.alignment_gap)
        capability = self._per_token(frontier.capability_gap)
        return (self._curve(EXACT, colour, "solid", 0.8, alignment, capability),)

    def plane_bounds(self, proxy: str, task: str, colour: str) -> tuple[Curve, ...]:
        """λ ↦ (Theorem 1, Theorem 2): the optimum of each λ lies below and to the left."""
        if not self._knows(proxy, task):
            return ()
        world = self.world
        d_f, d_proxy = world.task[task], world.safety[proxy]
        penalties = FRONT_PENALTIES[::4].tolist()
        safety = [safety_bound(d_f, d_proxy, world.original, p).value for p in penalties]
        capability = [capability_bound(d_f, d_proxy, p).value for p in penalties]
        return (
            self._curve(
                BOTH_BOUNDS,
                colour,
                "dot",
                1.0,
                self._per_token(np.array(safety)),
                self._per_token(np.array(capability)),
            ),
        )

    def oracle_curves(self, task: str) -> tuple[Curve, ...]:
        """The Pareto front over all models in (G_s, G_f), the limit that is true of every model."""
        if task not in self.world.task:
            return ()
        front = oracle_frontier(self.world.task[task], self.world.original, FRONT_PENALTIES)
        alignment = self._per_token(front.alignment_gap)
        capability = self._per_token(front.capability_gap)
        return (self._curve(ORACLE, GREY, "solid", 2.2, alignment, capability),)

    def _knows(self, proxy: str, task: str) -> bool:
        return proxy in self.world.safety and task in self.world.task

    def _per_token(self, nats_per_response: Array) -> Array:
        return nats_per_response / self.world.tokens_per_response

    @staticmethod
    def _curve(name: str, colour: str, dash: str, width: float, x: Array, y: Array) -> Curve:
        finite = np.isfinite(x) & np.isfinite(y)
        return Curve(
            name,
            colour,
            "dot" if dash == "dot" else "solid",
            width,
            tuple(x[finite].tolist()),
            tuple(y[finite].tolist()),
        )
