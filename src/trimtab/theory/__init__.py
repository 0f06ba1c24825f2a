"""The theory of the trade-off between safety and capability, exact where the world is finite.

Lemma 0 and Theorems 1 to 4 after Chen, Shen, Das and Chen, "Fundamental Safety-Capability
Trade-offs in Fine-tuning Large Language Models" (arXiv 2503.20807). Losses and gaps are in nats
per response throughout.
"""

from trimtab.theory.area import chord_area, hypervolume, price_of_the_proxy
from trimtab.theory.bounds import Bound, Term
from trimtab.theory.frontier import (
    Frontier,
    Optimum,
    capability_limit,
    exact_frontier,
    exact_penalty_for_budget,
    oracle_frontier,
    penalized_optimum,
)
from trimtab.theory.loss_constraint import (
    overlap_from_sample,
    penalty_for_budget,
    penalty_per_response,
    penalty_per_token,
    theorem_1,
    theorem_2,
)
from trimtab.theory.parameter_constraint import penalty_radius, theorem_3, theorem_4
from trimtab.theory.softmax import SoftmaxModel
from trimtab.theory.world import (
    Distribution,
    context_conflict,
    context_overlap,
    gap,
    total_variation,
)
from trimtab.theory.world_bounds import capability_bound, extremal_world, safety_bound

__all__ = [
    "Bound",
    "Distribution",
    "Frontier",
    "Optimum",
    "SoftmaxModel",
    "Term",
    "capability_bound",
    "capability_limit",
    "chord_area",
    "context_conflict",
    "context_overlap",
    "exact_frontier",
    "exact_penalty_for_budget",
    "extremal_world",
    "gap",
    "hypervolume",
    "oracle_frontier",
    "overlap_from_sample",
    "penalized_optimum",
    "penalty_for_budget",
    "penalty_per_response",
    "penalty_per_token",
    "penalty_radius",
    "price_of_the_proxy",
    "safety_bound",
    "theorem_1",
    "theorem_2",
    "theorem_3",
    "theorem_4",
    "total_variation",
]
