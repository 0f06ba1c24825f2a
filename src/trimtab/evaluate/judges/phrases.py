"""Phrase matching as a judge: the weak baseline that the literature counts by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from trimtab import __version__
from trimtab.config.experiment import PHRASES
from trimtab.evaluate.outcome import Verdict
from trimtab.measure.refusals import is_refusal


@dataclass(frozen=True)
class PhraseJudge:
    """Whether an answer holds a phrase of refusal; of harm it says nothing.

    Source: Zou et al. 2023, arXiv 2307.15043; see `trimtab.measure.refusals`.
    """

    name: ClassVar[str] = PHRASES
    model: ClassVar[str] = ""
    revision: ClassVar[str] = __version__
    """The phrases are those of this version."""
    settings: ClassVar[str] = ""
    knows_benign: ClassVar[bool] = True

    def verdicts(self, pairs: Sequence[tuple[str, str]]) -> list[Verdict]:
        """A verdict on each prompt and answer."""
        return [Verdict(refused=is_refusal(answer)) for _, answer in pairs]
