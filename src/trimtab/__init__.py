"""trimtab: fine-tune a language model under a safety constraint and measure what each gave up."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trimtab.errors import UserError as UserError
    from trimtab.experiment import Dial as Dial
    from trimtab.experiment import Experiment as Experiment
    from trimtab.points import Estimate as Estimate
    from trimtab.points import Point as Point
    from trimtab.train.constraints import AlignmentLossConstraint as AlignmentLossConstraint
    from trimtab.train.constraints import (
        AlignmentParameterConstraint as AlignmentParameterConstraint,
    )
    from trimtab.train.dial import DialTrainer as DialTrainer
    from trimtab.train.trainer import SafetyAwareSFTTrainer as SafetyAwareSFTTrainer

__version__ = "0.1.0"

_HOME = {
    "AlignmentLossConstraint": "trimtab.train.constraints",
    "AlignmentParameterConstraint": "trimtab.train.constraints",
    "Dial": "trimtab.experiment",
    "DialTrainer": "trimtab.train.dial",
    "Estimate": "trimtab.points",
    "Experiment": "trimtab.experiment",
    "Point": "trimtab.points",
    "SafetyAwareSFTTrainer": "trimtab.train.trainer",
    "UserError": "trimtab.errors",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
