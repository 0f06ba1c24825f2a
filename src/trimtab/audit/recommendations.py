"""The forecast: expected orders, suggested settings, and the reasoning in plain words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from trimtab.audit.forecast import OverlapBothWays, close_calls, in_order, suggested_penalty
from trimtab.audit.result import (
    DataRead,
    Forecast,
    LandscapeResult,
    PairOverlap,
    ProxySimilarity,
    SuggestedPenalty,
)
from trimtab.stats import Estimate
from trimtab.theory import theorem_1

_TOLD_APART_FULLY = 0.95
_SMALLEST_PENALTY = 1e-3


def outlook(
    budget: float,
    reference: str,
    data: Sequence[DataRead],
    similarity: Sequence[ProxySimilarity],
    overlap: Sequence[PairOverlap],
    landscape: LandscapeResult | None,
) -> Forecast:
    """The order of proxies and of tasks, λ and ε for the budget, and why.

    Proxies are ordered by the two-sample bound on total variation: in finite worlds it orders
    them as training does, as excess loss also does, and on SmolLM2 it did where excess loss did
    not (docs/audit.md). Tasks are ordered by context overlap with the first proxy of that order:
    both Theorem 2 and the overlap term of Theorem 1 rise with it.
    """
    excess = {one.proxy: one.excess_loss for one in similarity}
    apart = {one.proxy: one.total_variation for one in similarity}
    proxies = in_order(apart)
    overlaps = {
        (one.task, one.proxy): OverlapBothWays(one.task_on_safety, one.safety_on_task)
        for one in overlap
    }
    best = proxies[0]
    shared = {
        task: both.task_on_safety for (task, proxy), both in overlaps.items() if proxy == best
    }
    tasks = in_order(shared)
    tokens = {one.label: one.tokens_per_response for one in data}
    largest = max(one.largest_surprise for one in data)
    penalties = []
    for task in tasks:
        suggestion = suggested_penalty(budget, tokens[f"safety {best}"], overlaps[task, best])
        value = suggestion.value if math.isfinite(suggestion.value) else None
        penalties.append(SuggestedPenalty(task, best, value, suggestion.reason))
    return Forecast(
        tuple(proxies),
        tuple(tasks),
        tuple(penalties),
        (
            *_of_proxies(proxies, excess, apart, reference),
            *_of_shift(best, apart[best], overlaps[tasks[0], best], reference, largest),
            *_of_tasks(tasks, shared, best),
            *_of_penalties(penalties, budget),
            *_of_radii(landscape, budget),
        ),
    )


def _of_proxies(
    order: list[str],
    excess: Mapping[str, Estimate],
    apart: Mapping[str, Estimate],
    reference: str,
) -> list[str]:
    if len(order) == 1:
        return [
            f"{order[0]}: a classifier tells it from {reference} by a total variation of "
            f"{_plain(apart[order[0]])}; the aligned model expects its responses "
            f"{_signed(excess[order[0]])} nats per token less."
        ]
    told = ", ".join(f"{name} ({_plain(apart[name])})" for name in order)
    lines = [
        "Expect the proxies to keep safety in this order, best first, by total variation from "
        f"{reference}: {told}."
    ]
    unsure = close_calls(order, apart)
    if unsure:
        pairs = "; ".join(f"{one} and {other}" for one, other in unsure)
        lines.append(f"Their intervals touch, so either may come first: {pairs}.")
    else:
        lines.append("No two neighbours' intervals touch.")
    if min(one.value for one in apart.values()) >= _TOLD_APART_FULLY:
        lines.append(
            "The classifier tells every proxy from the reference nearly always: none is alike, and "
            "their order means little."
        )
    by_loss = in_order(excess)
    if by_loss != order:
        lines.append(
            f"By excess loss the order would be {', '.join(by_loss)}. Where the two disagreed on "
            "a real model, total variation was nearer to training."
        )
    negative = [name for name in order if excess[name].high < 0]
    if negative:
        lines.append(
            f"{' and '.join(negative)} nll the aligned model less than {reference}: a more "
            "predictable teacher, which is not yet a more similar one."
        )
    return lines


def _of_shift(
    best: str, apart: Estimate, overlap: OverlapBothWays, reference: str, largest: float
) -> list[str]:
    if apart.low == 0:
        return [f"The classifier could not tell {best} from {reference}."]
    floor = theorem_1(
        total_variation=apart.low,
        overlap=overlap.task_on_safety.high,
        penalty=math.inf,
        log_bound=largest,
    ).term("shift")
    return [
        f"TV between {best} and {reference} is at least {apart.low:.2f} (97.5 % "
        f"confidence). A shift no λ removes: with B = {largest:.3g}, the largest nll seen, "
        f"Theorem 1 allows it {floor.value:.3g} nats per response or more, an estimate too wide to "
        "choose by."
    ]


def _of_tasks(tasks: list[str], shared: Mapping[str, Estimate], best: str) -> list[str]:
    if len(tasks) == 1:
        one = shared[tasks[0]]
        return [
            f"{one.value:.0%} of the prompts of {tasks[0]} fall among those of {best} "
            f"({one.low:.0%} to {one.high:.0%}): "
            + ("expect next to no trade-off." if one.high < 0.05 else "there they compete.")
        ]
    told = ", ".join(f"{name} ({shared[name].value:.0%})" for name in tasks)
    return [
        "Expect the tasks to trade off against safety in this order, least first, by context "
        f"overlap with {best}: {told}."
    ]


def _of_penalties(penalties: list[SuggestedPenalty], budget: float) -> list[str]:
    lines = []
    for one in penalties:
        if one.penalty is None:
            continue
        tiny = one.penalty < _SMALLEST_PENALTY
        setting = "the smallest λ will do" if tiny else f"try λ = {one.penalty:.2g}"
        lines.append(
            f"{one.task}: for a rise of at most {budget:g} nats per token on {one.proxy} "
            f"{setting}: {one.reason}. An estimate, for the exact minimiser; the shift is extra."
        )
    return lines


def _of_radii(landscape: LandscapeResult | None, budget: float) -> list[str]:
    if landscape is None:
        return []
    lines = []
    for name, task in landscape.tasks.items():
        local, walked = task.radius.by_theorem_3.value, task.radius.by_walk.value
        cosine = task.cosine
        radius = "∞" if local is None else f"{local:.2g}"
        lines.append(
            f"{name}: ε = {radius} by Theorem 3 for {budget:g} nats per token, in the worst "
            "direction; on the walk down its gradient the safety loss rose by that much at "
            + ("no distance walked." if walked is None else f"{walked:.2g}.")
        )
        if cosine.high < 0:
            lines.append(
                f"{name}: its gradient opposes the safety data's (cosine {cosine.value:.2f})."
            )
        elif cosine.low > 0:
            lines.append(
                f"{name}: its gradient agrees with the safety data's ({cosine.value:.2f})."
            )
    return lines


def _plain(one: Estimate) -> str:
    return f"{one.value:.2f} [{one.low:.2f}, {one.high:.2f}]"


def _signed(one: Estimate) -> str:
    return f"{one.value:+.3f} [{one.low:+.3f}, {one.high:+.3f}]"
