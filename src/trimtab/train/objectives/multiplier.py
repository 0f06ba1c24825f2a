"""A Lagrange multiplier that is learned while the model is."""

from __future__ import annotations

import math
from dataclasses import dataclass

LOWEST, HIGHEST = 1e-4, 1e4
"""Between these a multiplier moves: below, a constraint is off; above, there is nothing else."""


@dataclass
class Multiplier:
    """λ of min over θ of max over λ ≥ 0 of L_f(θ) + λ·c(θ), where c(θ) ≤ 0 is the constraint.

    A PI controller on log λ, the update of νPI: with the error eₜ (the violation c in a unit that
    makes it about 1) and its running mean ξₜ = ν ξₜ₋₁ + (1 − ν) eₜ,

        log λₜ₊₁ = log λₜ + κ (eₜ + K (ξₜ − ξₜ₋₁)).

    The first term integrates: it rests only where the violation is zero, so a constraint that
    binds is met exactly. The second brakes: λ turns as soon as the violation does, where the
    integral alone overshoots to the other side. On the logarithm one gain κ
    serves λ = 0.01 and λ = 100 alike, λ stays positive without a projection, and a constraint that
    never binds drives λ down to `LOWEST`.

    Three stones that others stumbled over, and how they are passed here:

    **Signs.** The error is positive where the constraint is violated, and then λ rises: ascent.
    A framework's optimizer descends, so that a multiplier handed to it falls when it should rise,
    and the constraint is quietly traded away.

    **Caps.** A cap on λ turns the constraint back into a penalty, without a word. `HIGHEST` lies
    far beyond the λ at which the task no longer counts, where `BudgetOutcome.verdict` says that
    the constraint is out of reach: a result, and not a setting.

    **Delayed updates.** λ is held through all parts of one optimizer step, or the accumulated
    gradient would be that of no objective, and moves once after every step, on the violation that
    this very step's forward pass saw. Moved once an epoch or once a log line, the model and λ chase
    each other. Nor may the update forget how large the violation is: Adam moves a scalar by about
    its learning rate whatever the gradient, so that λ runs at full speed past the point where the
    violation vanishes, and never settles.

    Cooper (cooper-optim) has multipliers and νPI, and its formulation takes the backward pass and
    both optimizers' steps into its own hands, which are here the trainer's, with accumulation and
    processes. What is left to use is the formula above. The tests hold it against Cooper's.

    Source: Sohrabi et al., "On PI Controllers for Updating Lagrange Multipliers in Constrained
    Optimization", ICML 2024, arXiv 2406.04558.
    """

    value: float
    proportional: float = 5.0
    """K: how strongly a change of the violation counts beside the violation."""
    smoothing: float = 0.8
    """ν of the running mean, 0 for none."""
    mean_error: float | None = None
    """ξ, None before the first update."""

    def update(self, error: float, gain: float) -> None:
        """Move by κ = `gain` on one step's error."""
        before = error if self.mean_error is None else self.mean_error
        self.mean_error = self.smoothing * before + (1 - self.smoothing) * error
        moved = error + self.proportional * (self.mean_error - before)
        self.value = min(max(self.value * math.exp(gain * moved), LOWEST), HIGHEST)
