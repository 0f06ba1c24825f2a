"""A bound: an upper limit on a gap, as a sum of terms that say what they stand on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Form = Literal["sharp", "classical"]
Quantity = Literal["alignment gap", "capability gap"]
Assumption = Literal["A1", "A2", "smooth", "Lipschitz", "convex"]


@dataclass(frozen=True)
class Term:
    """One summand of a bound, in nats per response.

    Args:
        name: what it stands for: shift, overlap, start, drift or progress.
        value: how much it adds; progress is negative.
        assumes: what it stands on. "A1": log-probabilities are bounded by the B given. "A2": the
            model class holds the comparison models. "smooth", "Lipschitz": the constants given
            hold on the ball. "convex": the loss is convex on the segment to its minimiser.
        tight: whether a world, or a loss, that meets `assumes` and has these numbers attains it.
    """

    name: str
    value: float
    assumes: tuple[Assumption, ...]
    tight: bool


@dataclass(frozen=True)
class Bound:
    """An upper bound on a gap: the sum of its terms.

    It is as good as the numbers that went in: computed from estimates it is an estimate.

    Args:
        theorem: 1 to 4.
        quantity: the gap that it bounds, in nats per response.
        form: "sharp", the smallest derived here, or "classical", the textbook argument.
        terms: the summands.
    """

    theorem: int
    quantity: Quantity
    form: Form
    terms: tuple[Term, ...]

    @property
    def value(self) -> float:
        """The bound, in nats per response; zero if estimates that disagree sum to less."""
        return max(0.0, sum(term.value for term in self.terms))

    @property
    def tight(self) -> bool:
        """Whether every term is tight."""
        return all(term.tight for term in self.terms)

    def term(self, name: str) -> Term:
        """The term of that name; KeyError if the theorem has none."""
        for term in self.terms:
            if term.name == name:
                return term
        raise KeyError(name)


def check_masses(**masses: float) -> None:
    """Raise ValueError unless every number is a probability."""
    for name, value in masses.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}: give a probability mass, from 0 to 1.")


def check_non_negative(**numbers: float) -> None:
    """Raise ValueError on a negative number or NaN; infinity passes."""
    for name, value in numbers.items():
        if not value >= 0:
            raise ValueError(f"{name} is {value}: give a number from 0 to infinity.")


def form_of(sharp: bool) -> Form:
    """The name of the form."""
    return "sharp" if sharp else "classical"


def product(a: float, b: float) -> float:
    """a·b with 0·∞ = 0: what nothing is asked of may be unbounded."""
    return 0.0 if a == 0 or b == 0 else a * b


def ratio(a: float, b: float) -> float:
    """a/b with a/0 = ∞, 0/b = 0 and a/∞ = 0 for every a and b, zero and infinity included."""
    if a == 0 or b == float("inf"):
        return 0.0
    return a / b if b > 0 else float("inf")
