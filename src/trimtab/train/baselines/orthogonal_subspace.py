"""Orthogonal subspace fine-tuning (OSF): the largest directions of every weight are frozen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from peft import OSFConfig, PeftConfig, get_peft_model

from trimtab.config.ranges import Range
from trimtab.errors import UserError
from trimtab.train.objectives.base import Objective


@dataclass
class OrthogonalSubspace(Objective):
    """Minimise L_f over W = U_k S_k V_kᵀ + U S Vᵀ with the first k singular directions held.

    The directions of largest singular value are taken to carry what the model knows already; the
    others are trained, with a gradient that is kept orthogonal to the held ones. PEFT does both;
    an optimizer that scales the gradient entry by entry, as Adam does, leaves the complement by a
    little. No safety row is read.

    Args:
        kept_share: k as a share of the smaller side of each linear weight, above 0 and below 1. The
            more is kept, the less can be learned.

    Raises:
        UserError: when a trainer is made, another adapter is asked for beside it.

    Source: Nayak et al. 2025, "Sculpting Subspaces: Constrained Full Fine-Tuning in LLMs for
    Continual Learning", arXiv 2504.07097, as PEFT's OSF.
    """

    kept_share: Annotated[float, Range(above=0, below=1)] = 0.5

    def placed_on(self, model: Any, peft_config: PeftConfig | None) -> Any:
        if peft_config is not None:
            raise UserError(
                "osf trains part of every linear weight itself, so that no adapter goes with it. "
                "Leave lora_rank out."
            )
        return get_peft_model(
            model, OSFConfig(effective_rank=self.kept_share, target_modules="all-linear")
        )
