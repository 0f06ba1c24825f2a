"""What an audit comes to, in a few lines for whoever reads no more."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from trimtab.audit.result import (
    SMALLEST_PENALTY,
    AuditResult,
    PairOverlap,
    TaskGeometry,
    competes,
    tasks_of,
)


@dataclass(frozen=True)
class InShort:
    """What to expect of a training, and what its data cannot tell; sentences."""

    expected: tuple[str, ...]
    untold: tuple[str, ...]


def in_short(result: AuditResult) -> InShort:
    """The forecast without its reasons."""
    best = _nearest(result)
    overlaps = {
        overlap.task: overlap
        for overlap in result.overlap
        if overlap.proxy == (best or _any(result))
    }
    landscape = result.landscape.tasks if result.landscape else {}
    expected, untold = [], []
    several = len(result.similarity) > 1
    if several and best:
        expected.append(f"{best} is the safety data most like {result.reference}: train with it.")
    elif several:
        untold.append(
            f"Which safety data are the most like {result.reference}: "
            + (
                "the intervals of the nearest touch."
                if result.forecast.proxies
                else "rows are too few."
            )
        )
    for task in tasks_of(result.data):
        overlap = overlaps.get(task)
        if overlap is None:
            untold.append(
                f"{task}: whether safety and task compete: its prompts are too few, by their last "
                "messages, to be told from the safety prompts."
            )
        elif competes(overlap.task_on_safety) is None:
            untold.append(_about(task, overlap))
        else:
            expected.append(f"{_about(task, overlap)}{_setting(result, overlap)}.")
        expected += _of_gradient(task, landscape.get(task))
    return InShort(tuple(expected), (*untold, *_never_told(result)))


def _about(task: str, overlap: PairOverlap) -> str:
    shared = overlap.task_on_safety
    return f"{task}: {_ABOUT[competes(shared)].format(shared.value)}"


_ABOUT = {
    True: "a trade-off, as {:.0%} of its prompts fall among the safety prompts",
    False: "next to no trade-off, as {:.0%} of its prompts fall among the safety prompts",
    None: "whether safety and task compete: about {:.0%} of its prompts fall among the safety "
    "prompts, with an interval on both sides of few.",
}


def _nearest(result: AuditResult) -> str | None:
    """The safety data that are told to be nearest; None where none are."""
    ordered = result.forecast.proxies
    if not ordered or any(ordered[0] in alike for alike in result.forecast.alike_proxies):
        return None
    return ordered[0]


def _any(result: AuditResult) -> str:
    return result.forecast.proxies[0] if result.forecast.proxies else result.similarity[0].proxy


def _setting(result: AuditResult, overlap: PairOverlap) -> str:
    for suggestion in result.forecast.penalties:
        if suggestion.task == overlap.task and suggestion.penalty is not None:
            rise = f"{result.settings['budget']:g} nats per token"
            budget = f"a rise of the safety loss of at most {rise}"
            if suggestion.penalty < SMALLEST_PENALTY:
                return f"; for {budget} the smallest λ will do"
            return f"; for {budget} begin with λ = {suggestion.penalty:.2g}"
    return ""


def _of_gradient(task: str, geometry: TaskGeometry | None) -> Iterator[str]:
    if geometry is None:
        return
    if geometry.cosine.high < 0:
        yield f"{task}: its first steps raise the safety loss."
    elif geometry.cosine.low > 0:
        yield f"{task}: its first steps lower the safety loss."


def _never_told(result: AuditResult) -> Iterator[str]:
    yield "How many harmful prompts it will refuse: a loss is not an answer (--harmful, --benign)."
    yield "What keeping safety costs the task: train a few settings (trimtab dial, trimtab sweep)."
    if result.landscape is None:
        yield "Which task rows endanger safety: leave out --landscape none."
