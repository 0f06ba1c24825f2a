"""The published methods: one entry each, from which names, titles, panels and grids come; no torch.

To add a method, write its file in `trimtab/train/baselines` and its entry here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Literal

from trimtab.errors import UserError

Family = Literal[
    "Case I otherwise",
    "Methods that train on safety rows",
    "Methods on weights",
    "Methods on task rows, or on time",
]
"""Methods of a family share a panel of a figure."""

Stage = Literal["training", "after training"]


@dataclass(frozen=True)
class PublishedMethod:
    """A method as everything but its own file knows it."""

    name: str
    """In an experiment's file, in points and in the names of folders."""
    title: str
    """As people call it."""
    family: Family
    home: str
    """Its class: the module in `trimtab.train.baselines`, and its name there."""
    grid: tuple[float, ...]
    """Five values of its hyperparameter, half a decade or so apart, from where it is nearly plain
    fine-tuning to where it nearly leaves the model as it was."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Further arguments of its class."""
    stage: Stage = "training"
    """Whether it trains, or edits the model that plain fine-tuning made."""
    needs_unaligned: bool = False
    """Whether it needs the model from before it was aligned."""


_SAFETY_ROWS: Family = "Methods that train on safety rows"
_WEIGHTS: Family = "Methods on weights"
_TASK_ROWS: Family = "Methods on task rows, or on time"
_DECADES = (0.03, 0.1, 0.3, 1.0, 3.0)
_LOWER_DECADES = (0.01, 0.03, 0.1, 0.3, 1.0)

METHODS: dict[str, PublishedMethod] = {
    method.name: method
    for method in (
        PublishedMethod(
            "case-one-by-share",
            "Case I, rows in proportion to λ",
            "Case I otherwise",
            "case_one_by_share:CaseOneByShare",
            _DECADES,
        ),
        PublishedMethod("mixing", "mixing (SafeInstr)", _SAFETY_ROWS, "mixing:Mixing", _DECADES),
        PublishedMethod(
            "kl-anchor", "KL anchor, safety rows", _SAFETY_ROWS, "kl_anchor:KLAnchor", _DECADES
        ),
        PublishedMethod(
            "safegrad",
            "gradient surgery (SafeGrad)",
            _SAFETY_ROWS,
            "gradient_surgery:GradientSurgery",
            _DECADES,
        ),
        PublishedMethod(
            "pcgrad",
            "gradient surgery (PCGrad)",
            _SAFETY_ROWS,
            "gradient_surgery:GradientSurgery",
            _DECADES,
            {"towards": "data"},
        ),
        PublishedMethod(
            "lazy-safety-alignment",
            "lazy safety alignment (Lisa)",
            _SAFETY_ROWS,
            "lazy_safety_alignment:LazySafetyAlignment",
            (0.1, 0.3, 1.0, 3.0, 10.0),
        ),
        PublishedMethod(
            "orthogonal-projection",
            "orthogonal gradient projection (OGPSA)",
            _SAFETY_ROWS,
            "orthogonal_projection:OrthogonalProjection",
            (0.25, 0.5, 0.75, 0.9, 1.0),
        ),
        PublishedMethod(
            "osf",
            "orthogonal subspace (OSF)",
            _WEIGHTS,
            "orthogonal_subspace:OrthogonalSubspace",
            (0.1, 0.3, 0.5, 0.7, 0.9),
        ),
        PublishedMethod("l2-sp", "L2-SP", _WEIGHTS, "l2_sp:L2SP", _LOWER_DECADES),
        PublishedMethod("ewc", "EWC", _WEIGHTS, "ewc:EWC", _DECADES),
        PublishedMethod(
            "wise-ft",
            "interpolation (WiSE-FT)",
            _WEIGHTS,
            "interpolation:Interpolation",
            (0.1, 0.3, 0.5, 0.7, 0.9),
            stage="after training",
        ),
        PublishedMethod(
            "resta",
            "RESTA",
            _WEIGHTS,
            "resta:RESTA",
            (0.1, 0.2, 0.4, 0.7, 1.0),
            stage="after training",
            needs_unaligned=True,
        ),
        PublishedMethod(
            "safe-lora",
            "SafeLoRA",
            _WEIGHTS,
            "safe_lora:SafeLoRA",
            (0.3, 0.4, 0.45, 0.5, 0.6),
            stage="after training",
            needs_unaligned=True,
        ),
        PublishedMethod(
            "constrained-sft",
            "token-wise constrained SFT",
            _TASK_ROWS,
            "constrained_sft:ConstrainedSFT",
            _LOWER_DECADES,
        ),
        PublishedMethod(
            "kl-anchor-on-task",
            "KL anchor, task rows",
            _TASK_ROWS,
            "kl_anchor:KLAnchor",
            _DECADES,
            {"on": "task"},
        ),
        PublishedMethod(
            "early-stopping",
            "early stopping",
            _TASK_ROWS,
            "early_stopping:EarlyStopping",
            (0.05, 0.1, 0.2, 0.3, 0.4),
        ),
        PublishedMethod(
            "seal",
            "data selection (SEAL)",
            _TASK_ROWS,
            "data_selection:DataSelection",
            (0.9, 0.8, 0.6, 0.4, 0.2),
        ),
        PublishedMethod(
            "random-subset",
            "random subset",
            _TASK_ROWS,
            "data_selection:RandomSubset",
            (0.9, 0.8, 0.6, 0.4, 0.2),
        ),
    )
}

AFTER_TRAINING = tuple(name for name, one in METHODS.items() if one.stage == "after training")
"""Methods that edit the model of plain fine-tuning."""


def published(name: str) -> PublishedMethod:
    """The method of that name. Raises UserError, with the nearest one, where there is none."""
    if name not in METHODS:
        near = get_close_matches(name, METHODS, n=1)
        hint = f"Did you mean {near[0]}?" if near else f"Known are {', '.join(METHODS)}."
        raise UserError(f"there is no method {name!r}. {hint}")
    return METHODS[name]
