"""Published methods, one to a file: what a user would try instead of the two cases."""

from __future__ import annotations

from importlib import import_module

from trimtab.config.methods import published
from trimtab.train.baselines.post_hoc import PostHocMethod
from trimtab.train.objectives.base import Objective


def method_of(name: str, strength: float) -> Objective | PostHocMethod:
    """The method of that name with its hyperparameter set. Raises UserError."""
    method = published(name)
    module, _, kind = method.home.partition(":")
    made: Objective | PostHocMethod = getattr(import_module(f"{__name__}.{module}"), kind)(
        strength, **method.settings
    )
    return made
