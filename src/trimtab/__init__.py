"""trimtab: fine-tune a language model under a safety constraint and measure what each gave up."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trimtab.analysis.results import Results as Results
    from trimtab.analysis.results import read_results as read_results
    from trimtab.config.experiment import Dial as Dial
    from trimtab.config.experiment import Experiment as Experiment
    from trimtab.errors import UserError as UserError
    from trimtab.results.result import Point as Point
    from trimtab.stats import Estimate as Estimate
    from trimtab.train.config import SafetyAwareSFTConfig as SafetyAwareSFTConfig
    from trimtab.train.objectives.alignment_loss import (
        AlignmentLossConstraint as AlignmentLossConstraint,
    )
    from trimtab.train.objectives.alignment_parameter import (
        AlignmentParameterConstraint as AlignmentParameterConstraint,
    )
    from trimtab.train.objectives.base import Objective as Objective
    from trimtab.train.objectives.budget import Budget as Budget
    from trimtab.train.objectives.dial import DialObjective as DialObjective
    from trimtab.train.trainer import SafetyAwareSFTTrainer as SafetyAwareSFTTrainer

__version__ = "0.1.0"

_HOME = {
    "AlignmentLossConstraint": "trimtab.train.objectives.alignment_loss",
    "AlignmentParameterConstraint": "trimtab.train.objectives.alignment_parameter",
    "Budget": "trimtab.train.objectives.budget",
    "Dial": "trimtab.config.experiment",
    "DialObjective": "trimtab.train.objectives.dial",
    "Estimate": "trimtab.stats",
    "Experiment": "trimtab.config.experiment",
    "Point": "trimtab.results.result",
    "Objective": "trimtab.train.objectives.base",
    "Results": "trimtab.analysis.results",
    "SafetyAwareSFTConfig": "trimtab.train.config",
    "SafetyAwareSFTTrainer": "trimtab.train.trainer",
    "UserError": "trimtab.errors",
    "read_results": "trimtab.analysis.results",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
