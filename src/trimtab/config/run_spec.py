"""How one model is made: the method and its hyperparameter, the data, the seed."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, Self

from trimtab.config.methods import (
    ALIGNED,
    CASE_1,
    CASE_1_BUDGET,
    CASE_2,
    CASE_2_BUDGET,
    CASE_2_RADIUS,
    DIAL,
    METHODS,
    PLAIN,
    Method,
)


@dataclass(frozen=True)
class RunSpec:
    """One model of a plan, by what makes it differ from the others.

    >>> spec = RunSpec(CASE_1, 0.3, "near", "code", seed=0)
    >>> spec.label, spec.is_plain, spec.folder
    ('λ = 0.3', False, 'alignment-loss-penalty-0.3--near--code--seed-0')
    """

    method: Method
    value: float | None
    """The method's hyperparameter; None where it has none, or one training makes all values."""
    proxy: str | None
    """The safety data: trained on where the method reads any, measured on always."""
    task: str
    seed: int

    @property
    def label(self) -> str:
        """The hyperparameter in words, as "λ = 0.3"."""
        return self.method.label(self.value)

    @property
    def is_plain(self) -> bool:
        """Whether the constraint is off: λ = 0, ε = ∞ or an infinite budget."""
        return self.method is PLAIN or (
            self.value is not None and self.value == self.method.plain_at
        )

    @property
    def training(self) -> RunSpec:
        """The training behind it, which other specs may share."""
        if self.is_plain or self.method.is_post_hoc:
            return replace(self, method=PLAIN, value=None, proxy=None)
        return replace(
            self,
            value=None if self.method.one_training else self.value,
            proxy=self.proxy if self.method.reads_safety else None,
        )

    @property
    def folder(self) -> str:
        """A name for people and for folders, which no other spec has."""
        kind = self.method.name
        if self.value is not None:
            kind += f"-{self.method.hyperparameter.replace('_', '-')}-{_exact(self.value)}"
        data = [_for_folders(name) for name in (self.proxy, self.task) if name is not None]
        return "--".join([kind, *data, f"seed-{self.seed}"])

    def to_json(self) -> dict[str, Any]:
        """Its fields for a flat record; infinity, which JSON has not, as "inf"."""
        return {
            "method": self.method.name,
            "hyperparameter": None if self.value is None else self.method.hyperparameter,
            "value": "inf" if self.value == math.inf else self.value,
            "proxy": self.proxy,
            "task": self.task,
            "seed": self.seed,
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`; also reads what the first version wrote.

        Raises KeyError where a field is missing, or no method has that name.
        """
        first = "case" in record
        method, value = _of_first_version(record) if first else _of_this_version(record)
        value = math.inf if value == "inf" else value
        return cls(method, value, record["proxy"], record["task"], record["seed"])


def _of_this_version(record: Mapping[str, Any]) -> tuple[Method, Any]:
    return METHODS[record["method"]], record["value"]


def _of_first_version(record: Mapping[str, Any]) -> tuple[Method, Any]:
    """A case, and one of several fields for the hyperparameter."""
    case = record["case"]
    if case == ALIGNED.name:
        return ALIGNED, None
    if case == "method":
        return METHODS[record["method"]], record["knob"]
    if case == DIAL.name:
        return DIAL, record["alpha"]
    in_case = (
        {"penalty": CASE_1, "budget": CASE_1_BUDGET}
        if case == CASE_1.name
        else {"penalty": CASE_2, "radius": CASE_2_RADIUS, "budget": CASE_2_BUDGET}
    )
    for name, method in in_case.items():
        if record.get(name) is not None:
            return method, record[name]
    raise KeyError(case)


def _exact(value: float) -> str:
    short = f"{value:.12g}"
    return short if float(short) == value else repr(value)


def _for_folders(name: str) -> str:
    """The name where it is fit for a folder, else what of it is and a sum of the rest.

    >>> _for_folders("small-code"), _for_folders("a b"), _for_folders("a--b")
    ('small-code', 'a-b+c8687a08', 'a-b+90827a2e')
    """
    fit = re.sub(r"[^\w.]+", "-", name).strip("-")
    return fit if fit == name else f"{fit}+{sha256(name.encode()).hexdigest()[:8]}"
