"""trimtab: fine-tune a language model under a safety constraint and measure what each gave up."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trimtab.config.experiment import Dial as Dial
    from trimtab.config.experiment import Experiment as Experiment
    from trimtab.errors import UserError as UserError
    from trimtab.results.result import Point as Point
    from trimtab.stats import Estimate as Estimate
    from trimtab.train.objectives.constraints import (
        AlignmentLossConstraint as AlignmentLossConstraint,
    )
    from trimtab.train.objectives.constraints import (
        AlignmentParameterConstraint as AlignmentParameterConstraint,
    )
    from trimtab.train.objectives.dial import DialTrainer as DialTrainer
    from trimtab.train.trainer import SafetyAwareSFTTrainer as SafetyAwareSFTTrainer

__version__ = "0.1.0"

_HOME = {
    "AlignmentLossConstraint": "trimtab.train.objectives.constraints",
    "AlignmentParameterConstraint": "trimtab.train.objectives.constraints",
    "Dial": "trimtab.config.experiment",
    "DialTrainer": "trimtab.train.objectives.dial",
    "Estimate": "trimtab.stats",
    "Experiment": "trimtab.config.experiment",
    "Point": "trimtab.results.result",
    "SafetyAwareSFTTrainer": "trimtab.train.trainer",
    "UserError": "trimtab.errors",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
