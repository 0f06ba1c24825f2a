"""From a method and its hyperparameter to what trains a model, or edits a trained one."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from trimtab.config.methods import Method
from trimtab.train.baselines.post_hoc import PostHocMethod
from trimtab.train.objectives.base import Objective


def method_at(method: Method, value: float | None, **settings: Any) -> Objective | PostHocMethod:
    """The method's class with its hyperparameter set. Raises UserError: it is out of range."""
    assert method.home is not None
    module, _, kind = method.home.partition(":")
    varied = {} if value is None else {method.hyperparameter: value}
    trained_by: Objective | PostHocMethod = getattr(import_module(f"trimtab.train.{module}"), kind)(
        **varied, **method.settings, **settings
    )
    return trained_by
