"""The forecast: expected orders, suggested settings, and the reasoning in plain words."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from trimtab.analysis.labels import listed
from trimtab.audit.forecast import (
    OverlapBothWays,
    in_order,
    ranks,
    separable_pairs,
    suggested_penalty,
)
from trimtab.audit.result import (
    SMALLEST_PENALTY,
    DataRead,
    Forecast,
    LandscapeResult,
    PairOverlap,
    ProxySimilarity,
    SuggestedPenalty,
    competes,
    tasks_of,
)
from trimtab.stats import Estimate
from trimtab.theory import penalty_per_token, theorem_1

ROWS_TO_ORDER = 150
"""Rows of either side below which an order of proxies by total variation is chance."""

_TOLD_APART_FULLY = 0.95


def make_forecast(
    budget: float,
    reference: str,
    data: Sequence[DataRead],
    similarity: Sequence[ProxySimilarity],
    overlap: Sequence[PairOverlap],
    landscape: LandscapeResult | None,
) -> Forecast:
    """The order of proxies and of tasks, λ and ε for the budget, and why.

    Proxies are ordered, nearest first, by the two-sample bound on total variation that words give
    (docs/audit.md), from 150 rows of either side on. Tasks are ordered by context overlap with the
    nearest proxy: both Theorem 2 and the overlap term of Theorem 1 rise with it. Where intervals
    touch nothing is ordered. `data` begins with what proxies are compared with.
    """
    excess = {
        proxy_similarity.proxy: proxy_similarity.excess_loss for proxy_similarity in similarity
    }
    total_variations = {
        proxy_similarity.proxy: proxy_similarity.nearness for proxy_similarity in similarity
    }
    overlaps = {(pair_overlap.task, pair_overlap.proxy): pair_overlap for pair_overlap in overlap}
    by_label = {dataset.label: dataset for dataset in data}
    fewest = min(
        data[0].rows_read, *(by_label[f"safety {proxy}"].rows_read for proxy in total_variations)
    )
    orders = fewest >= ROWS_TO_ORDER
    best = in_order(total_variations)[0] if orders else similarity[0].proxy
    shared = {
        task: pair_overlap.task_on_safety
        for (task, proxy), pair_overlap in overlaps.items()
        if proxy == best
    }
    tasks = in_order(shared)
    lengths = {label: dataset.tokens_per_response for label, dataset in by_label.items()}
    penalties = [_penalty(budget, lengths, overlaps[task, best]) for task in tasks]
    return Forecast(
        tuple(in_order(total_variations)) if orders else (),
        tuple(tasks),
        tuple(penalties),
        (
            *_of_proxies(excess, total_variations, reference, fewest),
            *_of_shift(
                best,
                total_variations[best],
                shared[tasks[0]].high if tasks else 1.0,
                reference,
                max(dataset.largest_surprise for dataset in data),
            ),
            *_of_tasks(shared, best),
            *_of_untold(tasks_of(data), shared, best),
            *_of_penalties(penalties, overlaps, lengths, budget),
            *_of_radii(landscape, budget),
        ),
        alike(total_variations) if orders else (),
        alike(shared),
    )


def alike(values: Mapping[str, Estimate]) -> tuple[tuple[str, ...], ...]:
    """Those ranks that hold more than one name."""
    return tuple(rank for rank in ranks(values) if len(rank) > 1)


def _penalty(budget: float, lengths: Mapping[str, float], overlap: PairOverlap) -> SuggestedPenalty:
    suggestion = suggested_penalty(
        budget,
        lengths[f"task {overlap.task}"],
        lengths[f"safety {overlap.proxy}"],
        OverlapBothWays(overlap.task_on_safety, overlap.safety_on_task),
    )
    finite = (
        suggestion.value
        if suggestion.value is not None and math.isfinite(suggestion.value)
        else None
    )
    return SuggestedPenalty(overlap.task, overlap.proxy, finite, suggestion.reason)


def _of_proxies(
    excess: Mapping[str, Estimate],
    total_variations: Mapping[str, Estimate],
    reference: str,
    fewest: int,
) -> list[str]:
    if len(total_variations) == 1:
        (proxy,) = total_variations
        return [
            f"{proxy}: a classifier of words tells it from {reference} by a total variation of "
            f"{_interval_text(total_variations[proxy])}; the aligned model expects its responses "
            f"{_signed_text(excess[proxy])} nats per token less."
        ]
    if fewest < ROWS_TO_ORDER:
        return [
            f"No order of the proxies: {fewest} rows were read of the smallest data set, and "
            f"{ROWS_TO_ORDER} of each are needed to tell which is nearest."
        ]
    lines = [
        f"Nearest to {reference} by total variation of words: "
        f"{_ranks_text(total_variations, _interval_text)}.",
        *_open_orders(total_variations, "is nearer than"),
    ]
    if (
        min(total_variation.value for total_variation in total_variations.values())
        >= _TOLD_APART_FULLY
    ):
        lines.append(
            "The classifier tells every proxy from the reference nearly always: none is alike, and "
            "their order means little."
        )
    negative = [name for name in in_order(total_variations) if excess[name].high < 0]
    if negative:
        lines.append(
            f"The aligned model expects the responses of {listed(negative)} more than those "
            f"of {reference}: more predictable, which is not yet more similar."
        )
    return lines


def _ranks_text(values: Mapping[str, Estimate], estimate_text: Callable[[Estimate], str]) -> str:
    return ", then ".join(
        " or ".join(f"{name} ({estimate_text(values[name])})" for name in rank)
        for rank in ranks(values)
    )


def _open_orders(values: Mapping[str, Estimate], relation: str) -> list[str]:
    lines = []
    for rank in alike(values):
        lines.append(f"{listed(rank)} cannot be told apart: their intervals touch.")
        known = [
            f"{name} {relation} {listed(above)}" for name, above in separable_pairs(rank, values)
        ]
        if known:
            lines.append(f"Told all the same: {'; '.join(known)}.")
    return lines


def _of_shift(
    best: str, total_variation: Estimate, overlap: float, reference: str, largest: float
) -> list[str]:
    if total_variation.low == 0:
        return [f"The classifier could not tell {best} from {reference}."]
    floor = theorem_1(
        total_variation=total_variation.low,
        overlap=overlap,
        penalty=math.inf,
        log_bound=largest,
    ).term("shift")
    at_least = math.floor(100 * total_variation.low) / 100
    return [
        f"TV between {best} and {reference} is at least {at_least:.2f} (97.5 % "
        f"confidence). A shift no λ removes: with B = {largest:.3g}, the largest nll seen, "
        f"Theorem 1 allows it {floor.value:.3g} nats per response or more, an estimate too wide to "
        "choose by."
    ]


def _of_tasks(shared: Mapping[str, Estimate], best: str) -> list[str]:
    if not shared:
        return []
    if len(shared) == 1:
        ((task, overlap),) = shared.items()
        return [
            f"{overlap.value:.0%} of the prompts of {task} fall among those of {best} "
            f"({overlap.low:.0%} to {overlap.high:.0%}): {_expectation_text(overlap)}."
        ]
    return [
        f"Context overlap with {best}, least first, and so the least trade-off to expect: "
        f"{_ranks_text(shared, _percents_text)}.",
        *_open_orders(shared, "overlaps less than"),
    ]


def _of_untold(tasks: Sequence[str], shared: Mapping[str, Estimate], best: str) -> list[str]:
    """Tasks of which no overlap is known."""
    return [
        f"{task}: too few different prompts, by their last messages, to tell how many fall among "
        f"those of {best}; no λ is advised by it."
        for task in tasks
        if task not in shared
    ]


def _expectation_text(overlap: Estimate) -> str:
    return {
        False: "expect next to no trade-off",
        True: "there they compete",
        None: "whether they compete cannot be told",
    }[competes(overlap)]


def _of_penalties(
    penalties: Sequence[SuggestedPenalty],
    overlaps: Mapping[tuple[str, str], PairOverlap],
    lengths: Mapping[str, float],
    budget: float,
) -> list[str]:
    lines = []
    for suggestion in penalties:
        if suggestion.penalty is None:
            lines.append(
                f"{suggestion.task}: no λ can be advised by its overlap: {suggestion.reason}."
            )
            continue
        tiny = suggestion.penalty < SMALLEST_PENALTY
        setting = "the smallest λ will do" if tiny else f"try λ = {suggestion.penalty:.2g}"
        without_threshold = penalty_per_token(
            overlaps[suggestion.task, suggestion.proxy].penalty_without_threshold or 0.0,
            lengths[f"task {suggestion.task}"],
            lengths[f"safety {suggestion.proxy}"],
        )
        lines.append(
            f"{suggestion.task}: for a rise of at most {budget:g} nats per token on "
            f"{suggestion.proxy} {setting}: {suggestion.reason}."
            + (
                f" By the density ratio, with no threshold, λ = {without_threshold:.2g}."
                if without_threshold
                else ""
            )
            + " An estimate, for the exact minimiser; the shift is extra."
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


def _interval_text(estimate: Estimate) -> str:
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


def _percents_text(estimate: Estimate) -> str:
    return f"{estimate.value:.0%} [{estimate.low:.0%}, {estimate.high:.0%}]"


def _signed_text(estimate: Estimate) -> str:
    return f"{estimate.value:+.3f} [{estimate.low:+.3f}, {estimate.high:+.3f}]"
