"""Case II of Chen et al. 2025: constrain the parameters."""

from __future__ import annotations

import math
from dataclasses import dataclass

from trimtab.config.ranges import From0, Radius, check_ranges
from trimtab.errors import UserError
from trimtab.train.context import TrainingContext
from trimtab.train.objectives.base import Objective
from trimtab.train.objectives.proximal import project_onto_ball, shrink


@dataclass(frozen=True)
class AlignmentParameterConstraint(Objective):
    """Case II: minimise L_f(θ) + λ‖θ − θ_s‖², or L_f(θ) within ‖θ − θ_s‖ ≤ ε.

    θ_s is the model as the trainer received it; the norm is `Displacement.norm`, over all trained
    tensors together, LoRA modules by their product (α/r)BA.

    **The ball** is kept by projection along the ray from θ_s after every optimizer step.

    **The penalty** is a proximal step after every optimizer step, and not a term of the loss. As a
    term its gradient 2λ(θ − θ_s) is useless at θ_s, where it is zero, so that an adaptive
    optimizer's first steps have their full length whatever λ is; and for a large λ an explicit
    step oscillates (SGD diverges from λ > 1/(2·lr) on). Shrinking by lr·λ as AdamW decays weights
    is stable, but its stationary points are those of another objective, Σ √vᵢ(θ − θ_s)ᵢ² in place
    of ‖θ − θ_s‖². So the shrinkage is taken in the optimizer's own metric: with hᵢ the step the
    optimizer takes per unit of gradient (Adam: lr/(√v̂ᵢ + eps)),

        θᵢ ← θ_s,ᵢ + (θᵢ − θ_s,ᵢ) / (1 + 2λhᵢ),

    exactly the minimiser of (θ − θ⁺)ᵢ²/(2hᵢ) + λ(θ − θ_s)ᵢ². It is stable for every λ, and a point
    where it balances the optimizer's step has ∇L_f + 2λ(θ − θ_s) = 0, as the objective says. For
    LoRA the same step is taken in B, then in A: each is a quadratic in its r columns or rows.
    Gradient clipping changes the task's step but not this one: while it clips by a factor c, λ
    acts as λ/c; switch it off for λ to mean itself.

    Args:
        penalty: λ ≥ 0; 0 is plain fine-tuning.
        radius: ε > 0; infinity is plain fine-tuning. Give one of the two.

    Raises:
        UserError: not exactly one is given, or one is out of range.

    Source: alignment parameter constraint, Chen et al. 2025, arXiv 2503.20807; proximal steps in an
    adaptive metric, Yun, Lozano and Yang, "Adaptive Proximal Gradient Methods for Structured
    Neural Networks", NeurIPS 2021.
    """

    penalty: From0 | None = None
    radius: Radius | None = None
    needs_whole_model = False
    needs_counted_rows = False

    def __post_init__(self) -> None:
        if (self.penalty is None) == (self.radius is None):
            raise UserError(
                "an alignment parameter constraint takes a penalty or a radius. Give one of the "
                "two."
            )
        check_ranges(self)

    @property
    def is_plain(self) -> bool:
        return self.penalty == 0 or self.radius == math.inf

    @property
    def needs_displacement(self) -> bool:
        return True

    def after_optimizer_step(self, context: TrainingContext) -> None:
        assert context.displacement is not None
        if self.radius is not None:
            project_onto_ball(context.displacement, self.radius)
        elif self.penalty is not None:
            assert context.optimizer is not None
            shrink(context.displacement, self.penalty, context.optimizer)

    def logs(self, context: TrainingContext) -> dict[str, float]:
        assert context.displacement is not None
        return {"distance": context.displacement.norm().item()}
