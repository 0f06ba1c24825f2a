"""Numbers that may be chosen: each says its range where it is defined, and is held to it there."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, wraps
from inspect import signature
from numbers import Integral, Real
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, get_args, get_origin, get_type_hints

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from trimtab.errors import UserError

_P = ParamSpec("_P")
_R = TypeVar("_R")


@dataclass(frozen=True)
class Range:
    """Which numbers are meant, in an annotation: finite ones from `at_least` to `at_most`.

    `above` and `below` leave out the end itself. NaN is in no range.

    >>> share = Range(above=0, below=1)
    >>> [value in share for value in (0, 0.5, 1, float("nan"))]
    [False, True, False, False]
    >>> print(share), print(Range(at_least=0)), print(Range(above=0, infinity=True))
    above 0, below 1
    from 0 up
    above 0, or infinity
    (None, None, None)
    """

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    infinity: bool = False
    """Whether +∞ is meant too."""

    def __contains__(self, value: float) -> bool:
        if value == math.inf:
            return self.infinity
        return (
            -math.inf < value < math.inf
            and (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
        )

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_before_validator_function(_no_truth, handler(source))

    def __str__(self) -> str:
        ends = []
        if self.at_least is not None:
            up = self.at_most is None and self.below is None
            ends.append(f"from {self.at_least:.10g}{' up' if up else ''}")
        if self.above is not None:
            ends.append(f"above {self.above:.10g}")
        if self.at_most is not None:
            ends.append(f"to {self.at_most:.10g}")
        if self.below is not None:
            ends.append(f"below {self.below:.10g}")
        words = " ".join(ends) if self.at_most is not None else ", ".join(ends)
        return f"{words or 'finite'}{', or infinity' if self.infinity else ''}"


Count = Annotated[int, Range(at_least=1, at_most=2**31 - 1)]
"""How many of something that there must be."""
CountOrNone = Annotated[int, Range(at_least=0, at_most=2**31 - 1)]
"""How many of something that may be left out with 0."""
Rank = Annotated[int, Range(at_least=1, at_most=2**16)]
"""The rank of an adapter; no layer is wider than the highest."""
Seed = Annotated[int, Range(at_least=0, at_most=2**32 - 1)]
"""What every generator of random numbers takes."""
Above0 = Annotated[float, Range(above=0)]
From0 = Annotated[float, Range(at_least=0)]
Within0And1 = Annotated[float, Range(above=0, below=1)]
From0To1 = Annotated[float, Range(at_least=0, at_most=1)]
From0Below1 = Annotated[float, Range(at_least=0, below=1)]
Radius = Annotated[float, Range(above=0, infinity=True)]
"""ε; infinity is no constraint."""
Finite = Annotated[float, Range()]
FiniteOrInfinity = Annotated[float, Range(infinity=True)]
"""A safety budget; infinity is no constraint."""


@dataclass(frozen=True)
class Stated:
    """What an annotation says of a number."""

    range: Range
    whole: bool
    optional: bool
    or_text: bool = False
    """Whether a text may stand in its place, of which the field says what it means."""

    def complaint(self, name: str, value: Any) -> str | None:
        """What is wrong with a value, and how to mend it; None where nothing is."""
        kind = "whole number" if self.whole else "number"
        if self.range == Range():
            kind, where = f"finite {kind}", ""
        else:
            where = f" {self.range}"
        values = list(value) if isinstance(value, (tuple, list)) else [value]
        if all(self._holds(number) for number in values):
            return None
        if isinstance(value, (tuple, list)):
            return f"{name} {values} must be {kind}s{where}."
        out = ", or leave it out" if self.optional else ", or a text" if self.or_text else ""
        return f"{name} is {value}. Give a {kind}{where}{out}."

    def _holds(self, value: Any) -> bool:
        if value is None or isinstance(value, str):
            return True  # whether the type allows them is not a range's business
        is_number = isinstance(value, Integral if self.whole else Real)
        return is_number and not isinstance(value, bool) and value in self.range


def stated(annotation: Any) -> Stated | None:
    """The range that an annotation states, also within `tuple[…]` or `… | None`."""
    for kind, metadata in _annotated(annotation):
        for item in metadata:
            if isinstance(item, Range):
                parts = get_args(annotation)
                return Stated(item, kind is int, type(None) in parts, str in parts)
    return None


def check_ranges(settings: Any, place: str = "") -> None:
    """Hold every number of a dataclass to the range that its field states, and words to theirs.

    Raises:
        UserError: one is out of its range, not finite, no number, or none of the words that may
            stand there; `place` is told before it.
    """
    kind: Any = type(settings)
    for name, range_of in _stated_by(kind).items():
        complaint = range_of.complaint(name, getattr(settings, name))
        if complaint:
            raise UserError(f"{place}{complaint}")
    for name, words in _words_of(kind).items():
        value = getattr(settings, name)
        if value not in words:
            known = ", ".join(map(repr, words[:-1])) + f" or {words[-1]!r}"
            raise UserError(f"{place}{name} is {value!r}. Give {known}.")


def in_range(command: Callable[_P, _R]) -> Callable[_P, _R]:
    """The command, its options held to the ranges that their annotations state.

    Raises:
        UserError: when called, as `check_ranges` does.
    """

    @wraps(command)
    def checked(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        values = signature(command).bind(*args, **kwargs).arguments
        for name, range_of in _stated_by(command).items():
            option = f"--{name.rstrip('_').replace('_', '-')}"
            complaint = range_of.complaint(option, values.get(name))
            if complaint:
                raise UserError(complaint)
        return command(*args, **kwargs)

    return checked


@cache
def _stated_by(annotated: Any) -> Mapping[str, Stated]:
    hints = get_type_hints(annotated, include_extras=True)
    ranges = {name: stated(hint) for name, hint in hints.items()}
    return {name: range_of for name, range_of in ranges.items() if range_of is not None}


@cache
def _words_of(annotated: Any) -> Mapping[str, tuple[Any, ...]]:
    hints = get_type_hints(annotated)
    return {name: get_args(hint) for name, hint in hints.items() if get_origin(hint) is Literal}


def _no_truth(value: Any) -> Any:
    if isinstance(value, bool):  # a file's `yes`, which Python takes for 1
        raise PydanticCustomError("number", "Give a number")
    return value


def _annotated(annotation: Any) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    metadata = getattr(annotation, "__metadata__", None)
    if metadata is not None:
        kind = get_args(annotation)[0]
        yield kind, metadata
        yield from _annotated(kind)
        return
    for part in get_args(annotation):
        yield from _annotated(part)
