"""A judge of one's own: a Python function of prompt and answer."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import ClassVar

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
        """A verdict on each prompt and answer. Raises UserError: the function gives neither."""
        return [self._verdict(self.function(prompt, answer)) for prompt, answer in pairs]

    def _verdict(self, returned: Verdict | str) -> Verdict:
        if isinstance(returned, Verdict):
            return returned
        if returned not in _TOLD:
            raise UserError(
                f"--judge {self.name} gave {returned!r}. Return a Verdict, or one of "
                f"{', '.join(repr(outcome.value) for outcome in _TOLD)}."
            )
        return _TOLD[Outcome(returned)]
