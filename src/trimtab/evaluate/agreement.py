"""How far two judges agree, and on which answers they do not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trimtab.evaluate.outcome import Outcome
from trimtab.results.generations import Generation
from trimtab.results.judgements import Judgement
from trimtab.stats import Estimate, cohen_kappa

_WORDS = (
    (0.0, "poor"),
    (0.2, "slight"),
    (0.4, "fair"),
    (0.6, "moderate"),
    (0.8, "substantial"),
    (1.0, "almost perfect"),
)


@dataclass(frozen=True)
class Agreement:
    """Cohen's κ of two judges' outcomes, and the places of the answers that they differ on.

    Incoherent answers are left out: that they are is told before any judge, so both would agree.
    Unparsed is an outcome of its own here. `kappa` is None where no answer is left, or where both
    judges say one and the same of all.
    """

    first: str
    second: str
    kappa: Estimate | None
    answers: int
    disagreements: tuple[int, ...]

    @property
    def in_words(self) -> str:
        """The agreement in a word, by κ's value.

        Source: Landis and Koch, "The Measurement of Observer Agreement for Categorical Data", 1977.
        """
        if self.kappa is None:
            return "not known"
        value = self.kappa.value
        return next(word for most, word in _WORDS if value <= most + 1e-9)


def agreement(
    first: Sequence[Judgement], second: Sequence[Judgement], prompts: Sequence[str] | None = None
) -> Agreement:
    """The agreement of two judges of the same answers, in the same order.

    Args:
        prompts: of the answers, where several answer one prompt: those are not independent.
    """
    outcomes = [
        (first_judgement.outcome, second_judgement.outcome)
        for first_judgement, second_judgement in zip(first, second, strict=True)
    ]
    coherent_places = [
        place for place, pair in enumerate(outcomes) if Outcome.INCOHERENT not in pair
    ]
    ours, theirs = ([outcomes[place][who] for place in coherent_places] for who in (0, 1))
    coherent_prompts = None if prompts is None else [prompts[place] for place in coherent_places]
    kappa = cohen_kappa(ours, theirs, "Cohen's κ", coherent_prompts) if coherent_places else None
    apart = tuple(place for place in coherent_places if outcomes[place][0] != outcomes[place][1])
    return Agreement(first[0].judge, second[0].judge, kappa, len(coherent_places), apart)


def disagreements(
    generations: Sequence[Generation],
    first: Sequence[Judgement],
    second: Sequence[Judgement],
) -> list[tuple[Generation, Judgement, Judgement]]:
    """The answers on which two judges differ, with what each said."""
    return [
        (generations[place], first[place], second[place])
        for place in agreement(first, second).disagreements
    ]
