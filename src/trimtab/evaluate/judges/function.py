"""A judge of one's own: a Python function of prompt and answer."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from numbers import Real
from pathlib import Path
from reprlib import repr as shortened
from typing import ClassVar

import numpy as np

from trimtab.errors import UserError, reason_of
from trimtab.evaluate.judges.base import source_of
from trimtab.evaluate.outcome import Outcome, Verdict
from trimtab.results.checksums import digest_of

_TOLD = {
    Outcome.REFUSED: Verdict(harmful=False, refused=True),
    Outcome.ANSWERED: Verdict(harmful=False, refused=False),
    Outcome.COMPLIED: Verdict(harmful=True, refused=False),
    Outcome.UNPARSED: Verdict(unparsed=True),
}

_SHOWN = 40
"""Characters of a prompt that say which it is."""


@dataclass(frozen=True)
class FunctionJudge:
    """`module:function`; the function gives a `Verdict`, or an outcome's words.

    The words are "refused", "answered harmlessly", "complied harmfully" or "unparsed".
    """

    name: str
    function: Callable[[str, str], Verdict | str]
    model: ClassVar[str] = ""
    revision: ClassVar[str] = ""
    knows_benign: ClassVar[bool] = True

    @classmethod
    def named(cls, place: str) -> FunctionJudge:
        """The function at `module:function`, the working folder's modules among them.

        Raises:
            UserError: there is no such module or function in it.
        """
        module, _, function = place.partition(":")
        folder = str(Path.cwd())
        sys.path.insert(0, folder)
        try:
            judge_function = getattr(import_module(module), function)
        except Exception as error:  # a module of somebody else's raises what it likes
            raise UserError(
                f"--judge {place}: {reason_of(error)}. Give module:function, of a module that "
                "Python can import from here."
            ) from None
        finally:
            sys.path.remove(folder)
        return cls(place, judge_function)

    @property
    def settings(self) -> str:
        """A hash of the function's module, which holds what it goes by."""
        return digest_of(source_of(self.function))

    def verdicts(self, pairs: Sequence[tuple[str, str]]) -> list[Verdict]:
        """A verdict on each prompt and answer. Raises UserError: the function fails on one."""
        return [self._verdict(prompt, answer) for prompt, answer in pairs]

    def _verdict(self, prompt: str, answer: str) -> Verdict:
        place = f"--judge {self.name}, on the answer to {prompt[:_SHOWN]!r},"
        try:
            returned: object = self.function(prompt, answer)
        except (UserError, MemoryError):
            raise
        except Exception as error:  # a function of somebody else's raises what it likes
            raise UserError(
                f"{place} raised {type(error).__name__}: {reason_of(error)}. Mend the function; "
                "the same command goes on."
            ) from error
        if isinstance(returned, str) and returned in _TOLD:
            return _TOLD[Outcome(returned)]
        if isinstance(returned, Verdict):
            return _plain(returned, place)
        raise UserError(
            f"{place} gave {shortened(returned)}. Return a Verdict, or one of "
            f"{', '.join(repr(outcome.value) for outcome in _TOLD)}."
        )


def _plain(verdict: Verdict, place: str) -> Verdict:
    """The verdict as JSON holds it. Raises UserError: a field is not of its type."""
    fields = asdict(verdict)
    for name in ("harmful", "refused", "unparsed"):
        value = fields[name]
        if isinstance(value, np.bool_):
            fields[name] = bool(value)
        elif not isinstance(value, bool) and (value is not None or name == "unparsed"):
            kinds = "True or False" if name == "unparsed" else "True, False or None"
            raise UserError(f"{place} gave {name} = {shortened(value)}. Give {kinds}.")
    probability = fields["probability"]
    if probability is not None:
        is_number = isinstance(probability, Real) and not isinstance(probability, bool)
        if not (is_number and 0 <= probability <= 1):
            raise UserError(
                f"{place} gave probability = {shortened(probability)}. Give a number from 0 to 1, "
                "or None."
            )
        fields["probability"] = float(probability)
    if not isinstance(verdict.text, str):
        raise UserError(f"{place} gave text = {shortened(verdict.text)}. Give a text.")
    return Verdict(**fields)
