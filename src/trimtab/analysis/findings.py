"""The paper's findings as predicates on points: one wording for demo, report and reproduction.

Source: figures 1 to 3 of Chen et al. 2025, arXiv 2503.20807.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from types import MappingProxyType

from trimtab.analysis.groups import (
    Gap,
    SafetyGap,
    Setting,
    case_2_lines,
    lines_of,
    overlap_of,
    safety_gap_of,
    tasks_in_both_cases,
)
from trimtab.analysis.labels import nats, percent, shortened
from trimtab.analysis.optimality_gap import PointOptimalityGap
from trimtab.analysis.verdicts import (
    FEWEST_SEEDS,
    FEWEST_SETTINGS,
    FindingVerdict,
    Order,
    Pairs,
    all_hold,
    all_lie,
    compare,
    falls,
    rises,
    speaks,
)
from trimtab.config.methods import CASE_1, CASE_2, CASE_2_RADIUS, number
from trimtab.data.synthetic import World
from trimtab.results.per_row_losses import RowLosses
from trimtab.results.result import Point
from trimtab.stats import Estimate, front
from trimtab.theory import total_variation

UNIT = "nats per token"
LINES_QUOTED = 4
TOO_FEW = (
    f"a line needs {FEWEST_SETTINGS} settings with {FEWEST_SEEDS} seeds each before it says "
    "anything."
)
NOWHERE: Mapping[str, Estimate] = MappingProxyType({})
NO_MODEL_PASSES = "No model lies below the exact limit, which none can pass."


@dataclass(frozen=True)
class Finding:
    """A statement of the paper, whether these points bear it out, and the numbers that say so."""

    statement: str
    verdict: FindingVerdict
    evidence: str


def findings(
    points: Iterable[Point],
    rows: RowLosses | None = None,
    distances: Mapping[str, Estimate] = NOWHERE,
) -> tuple[Finding, ...]:
    """The findings that these points can speak to.

    "holds" and "does not hold" need a difference whose 95 % interval leaves 0 out, or two intervals
    that do not touch, on lines of at least three settings with two seeds each; with shorter ones
    there is "too few to say". Between them a finding is "undecided". Two models on the same rows
    are compared row by row where `rows` knows the losses; the costs of two tasks are compared by
    their intervals.

    Args:
        distances: how far each proxy lies from the original safety data, by name, in any unit.
    """
    points, pairs = list(points), Pairs(rows)
    safety = safety_gap_of(points)
    possible_findings: list[Finding | None] = [
        nearer_proxy_keeps_more_safety(points, pairs, distances)
    ]
    if safety is not None:
        possible_findings += [
            penalty_lowers_safety_gap(points, pairs, safety),
            penalty_raises_capability_gap(points, pairs),
            strength_lowers_safety_gap(points, pairs, safety),
            strength_raises_capability_gap(points, pairs),
            overlap_makes_safety_costly(points, pairs),
            case_2_costs_more(points, pairs, safety),
        ]
    return tuple(finding for finding in possible_findings if finding is not None)


def distances_in(world: World) -> dict[str, Estimate]:
    """TV(D_s, D_ŝ) of every proxy of a known world, exact."""
    unit = "total variation"
    return {
        name: Estimate.exact(total_variation(world.original, proxy), unit)
        for name, proxy in world.safety.items()
    }


def nearer_proxy_keeps_more_safety(
    points: Iterable[Point], pairs: Pairs, distances: Mapping[str, Estimate] = NOWHERE
) -> Finding | None:
    """G_s of the nearer proxy lies below that of the farther at every λ > 0 both were given.

    Which is nearer comes from `distances`, never from the gaps, which it is to explain.
    """
    orders: list[Order] = []
    evidence: list[str] = []
    unknown: list[str] = []
    is_short = False
    for ((proxy, task), line), ((other_proxy, other_task), other_line) in combinations(
        lines_of(points, CASE_1).items(), 2
    ):
        settings = {
            name: _by_penalty(proxy_line, "alignment gap")
            for name, proxy_line in ((proxy, line), (other_proxy, other_line))
        }
        common = sorted(settings[proxy].keys() & settings[other_proxy].keys())
        if task != other_task or not common:
            continue
        names = _by_distance(proxy, other_proxy, distances)
        if names is None:
            unknown.append(f"{shortened(proxy)} or {shortened(other_proxy)}")
            continue
        near, far = names
        if not all(
            speaks([by_penalty[penalty] for penalty in common]) for by_penalty in settings.values()
        ):
            is_short = True
            continue
        order = pairs.order("alignment gap")
        pair_orders = [order(settings[near][penalty], settings[far][penalty]) for penalty in common]
        orders += pair_orders
        middle = common[len(common) // 2]
        gaps = {name: settings[name][middle].measured("alignment gap") for name in names}
        evidence.append(
            f"on {shortened(task)}, {shortened(near)} lies below {shortened(far)} at "
            f"{pair_orders.count('below')} of {len(pair_orders)} "
            f"penalties (at λ = {number(middle)}: {_gap_text(gaps[near])} "
            f"against {_gap_text(gaps[far])} {UNIT}; {distances[near].unit} to the original "
            f"{nats(distances[near].value)} and {nats(distances[far].value)})"
        )
    statement = "The proxy nearer the original safety data keeps more safety, at every penalty λ."
    if orders:
        return Finding(statement, all_lie("below", orders), _evidence_text(evidence))
    if is_short:
        return Finding(statement, "too few to say", TOO_FEW)
    if unknown:
        evidence = [
            f"which is nearer, {pair}, is not known: state it as their distance in the "
            "experiment, or let 'trimtab audit' tell them apart"
            for pair in dict.fromkeys(unknown)
        ]
        return Finding(statement, "undecided", _evidence_text(evidence))
    return None


def penalty_lowers_safety_gap(
    points: Iterable[Point], pairs: Pairs, safety: SafetyGap
) -> Finding | None:
    """Case I: G_s falls with λ > 0 on every line whose task overlaps the proxy."""
    statement = f"Case I: where contexts overlap, a larger penalty λ lowers the {safety}."
    return _trend(statement, _case_1_with_overlap(points), pairs, safety, down=True)


def penalty_raises_capability_gap(points: Iterable[Point], pairs: Pairs) -> Finding | None:
    """Case I: G_f rises with λ > 0 on every line whose task overlaps the proxy."""
    statement = "Case I: where contexts overlap, a larger penalty λ raises the capability gap."
    return _trend(statement, _case_1_with_overlap(points), pairs, "capability gap", down=False)


def strength_lowers_safety_gap(
    points: Iterable[Point], pairs: Pairs, safety: SafetyGap
) -> Finding | None:
    """Case II: G_s falls as λ grows or ε shrinks."""
    statement = f"Case II: a tighter constraint (larger λ or smaller ε) lowers the {safety}."
    return _trend(statement, _case_2(points), pairs, safety, down=True)


def strength_raises_capability_gap(points: Iterable[Point], pairs: Pairs) -> Finding | None:
    """Case II: G_f rises as λ grows or ε shrinks."""
    statement = "Case II: a tighter constraint (larger λ or smaller ε) raises the capability gap."
    return _trend(statement, _case_2(points), pairs, "capability gap", down=False)


def overlap_makes_safety_costly(points: Iterable[Point], pairs: Pairs) -> Finding | None:
    """G_f(θ at the largest common λ) − G_f(θ at the smallest) rises with the context overlap."""
    by_proxy: dict[str, list[tuple[Estimate, str, dict[float, Setting]]]] = {}
    for (proxy, task), line in lines_of(points, CASE_1).items():
        overlap = overlap_of(line)
        if overlap is not None:
            gaps = _by_penalty(line, "capability gap")
            by_proxy.setdefault(proxy, []).append((overlap, task, gaps))
    verdicts: list[FindingVerdict] = []
    evidence: list[str] = []
    for proxy, lines in by_proxy.items():
        common = sorted(set.intersection(*(set(line) for _, _, line in lines)))
        if len({overlap.value for overlap, _, _ in lines}) < 2 or len(common) < 2:
            continue
        loose, tight = common[0], common[-1]
        lines = sorted(lines, key=lambda entry: entry[0].value)
        costs = [
            (overlap, pairs.rise(line[loose], line[tight], "capability gap"))
            for overlap, _, line in lines
        ]
        if not all(speaks([line[penalty] for penalty in common]) for _, _, line in lines):
            verdicts.append("too few to say")
            evidence.append(TOO_FEW)
            continue
        verdicts.append(rises(costs, _cost_order))
        costs_text = ", ".join(
            f"{nats(cost.value)} at overlap {percent(overlap.value)} ({shortened(task)})"
            for (overlap, cost), (_, task, _) in zip(costs, lines, strict=True)
        )
        alike = compare(costs[0][0], costs[-1][0]) == "within"
        evidence.append(
            f"with {shortened(proxy)}, going from λ = {number(loose)} to {number(tight)} "
            f"costs {costs_text}, in {UNIT}"
            + ("; these overlaps cannot be told apart" if alike else "")
        )
    if not verdicts:
        return None
    statement = (
        "The less the task's contexts overlap the proxy's, the less capability safety costs."
    )
    return Finding(statement, all_hold(verdicts), _evidence_text(evidence))


def case_2_costs_more(points: Iterable[Point], pairs: Pairs, safety: SafetyGap) -> Finding | None:
    """A model of Case I as safe as one of Case II, or safer, has the smaller G_f.

    Models are compared where one of Case I keeps at least as much safety and costs less, which
    needs no line drawn between models; or keeps no more and costs more. Of each task more than half
    of Case II's models have to lie on one side, beyond their intervals, and none on the other.
    """
    verdicts: list[FindingVerdict] = []
    evidence: list[str] = []
    is_short = False
    for task, (proxy, case_1, case_2) in tasks_in_both_cases(points).items():
        case_1_models = [setting for setting in case_1 if not setting.is_plain]
        case_2_models = [setting for setting in case_2 if not setting.is_plain]
        if not speaks(case_1_models) or not speaks(case_2_models):
            is_short = True
            continue
        chosen = _unbeaten(case_1_models, safety)
        compared = [
            _order_beside_case_1(setting, chosen, pairs, safety) for setting in case_2_models
        ]
        verdicts.append(_most_lie_above(compared))
        evidence.append(
            f"on {shortened(task)} with {shortened(proxy)}, of {len(compared)} Case II models "
            f"{compared.count('above')} cost more than one of Case I that is as safe, and "
            f"{compared.count('below')} less than one that is no safer"
            f"{_example_text(case_2_models, compared, case_1_models, safety)}"
        )
    statement = f"Case II is steeper: at the same {safety} it costs more capability than Case I."
    if not verdicts:
        return Finding(statement, "too few to say", TOO_FEW) if is_short else None
    return Finding(statement, all_hold(verdicts), _evidence_text(evidence))


def _unbeaten(settings: Sequence[Setting], safety: SafetyGap) -> list[Setting]:
    """Those on the front of both gaps: what another beats, nobody would choose."""
    measured = [
        (setting, (gap.value, cost.value))
        for setting in settings
        if (gap := setting.measured(safety)) and (cost := setting.measured("capability gap"))
    ]
    return [measured[place][0] for place in front([gaps for _, gaps in measured])]


def _most_lie_above(orders: Sequence[Order]) -> FindingVerdict:
    """Near plain the cases meet, so that not every model has to; but one model is no trend."""
    above, below = orders.count("above"), orders.count("below")
    if max(above, below) < 2 or 2 * max(above, below) <= len(orders) or min(above, below):
        return "undecided"
    return "holds" if above else "does not hold"


def _order_beside_case_1(
    setting: Setting, case_1: Sequence[Setting], pairs: Pairs, safety: SafetyGap
) -> Order:
    """Whether a Case II model costs more, or less, than one of Case I that can stand for it."""
    order = pairs.order("capability gap")
    safety_gap = setting.measured(safety)
    above = below = False
    for rival in case_1:
        gap = rival.measured(safety)
        if safety_gap is None or gap is None:
            continue
        above |= gap.value <= safety_gap.value and order(rival, setting) == "below"
        below |= gap.value >= safety_gap.value and order(rival, setting) == "above"
    if above == below:
        return "within"
    return "above" if above else "below"


def _example_text(
    case_2: Sequence[Setting], orders: Sequence[Order], case_1: Sequence[Setting], safety: SafetyGap
) -> str:
    """One Case II model that costs more, beside the cheapest of Case I that is as safe."""
    for case_2_setting, order in zip(case_2, orders, strict=True):
        safety_gap, cost = (
            case_2_setting.measured(safety),
            case_2_setting.measured("capability gap"),
        )
        if order != "above" or safety_gap is None or cost is None:
            continue
        as_safe = [
            (height.value, gap.value)
            for setting in case_1
            if (gap := setting.measured(safety)) and (height := setting.measured("capability gap"))
            if gap.value <= safety_gap.value
        ]
        least, beside = min(as_safe)
        return (
            f" ({nats(cost.value)} at {nats(safety_gap.value)} against {nats(least)} at "
            f"{nats(beside)}, in {UNIT})"
        )
    return ""


def no_model_passes_the_limit(gaps: Sequence[PointOptimalityGap]) -> Finding | None:
    """No measured G_f lies below min{G_f(P) : G(P) ≤ the safety gap measured}, in either plane."""
    if not gaps:
        return None
    wrong = [gap for gap in gaps if gap.is_impossible]
    if not wrong:
        evidence = f"{len(gaps)} of {len(gaps)} models keep to it, within their intervals."
        return Finding(NO_MODEL_PASSES, "holds", evidence)
    point = wrong[0].point
    evidence = (
        f"a mistake somewhere, in data, measuring or theory: {len(wrong)} of {len(gaps)} models "
        f"lie below by more than their intervals, first {point.method.title}, "
        f"{point.spec.label}, on {shortened(point.task)}, seed {point.seed}."
    )
    return Finding(NO_MODEL_PASSES, "does not hold", evidence)


def _trend(
    statement: str, lines: dict[str, list[Setting]], pairs: Pairs, which: Gap, *, down: bool
) -> Finding | None:
    verdicts: list[FindingVerdict] = []
    evidence: list[str] = []
    for name, line in lines.items():
        measured = [(setting, gap) for setting in line if (gap := setting.measured(which))]
        if len(measured) < 2:
            continue
        if not speaks([setting for setting, _ in measured]):
            verdicts.append("too few to say")
            continue
        goes = falls if down else rises
        verdicts.append(goes([setting for setting, _ in measured], pairs.order(which)))
        (from_setting, from_gap), (to_setting, to_gap) = measured[0], measured[-1]
        evidence.append(
            f"{name} {nats(from_gap.value)} at {from_setting.label} and "
            f"{nats(to_gap.value)} at {to_setting.label}"
        )
    if not verdicts:
        return None
    if not evidence:
        return Finding(statement, "too few to say", TOO_FEW)
    count = f"{verdicts.count('holds')} of {len(evidence)} lines, in {UNIT}: "
    return Finding(statement, all_hold(verdicts), count + _evidence_text(evidence))


def _case_1_with_overlap(points: Iterable[Point]) -> dict[str, list[Setting]]:
    lines = {}
    for (proxy, task), line in lines_of(points, CASE_1).items():
        overlap = overlap_of(line)
        if overlap is None or overlap.value > 0:
            lines[f"{shortened(proxy)} – {shortened(task)}"] = [
                setting for setting in line if not setting.is_plain
            ]
    return lines


def _case_2(points: Iterable[Point]) -> dict[str, list[Setting]]:
    points = list(points)
    return {
        f"{shortened(task)} by {method.symbol}": line
        for method in (CASE_2, CASE_2_RADIUS)
        for task, line in case_2_lines(points, method).items()
    }


def _by_distance(
    proxy: str, other_proxy: str, distances: Mapping[str, Estimate]
) -> tuple[str, str] | None:
    """The nearer proxy and the farther; None where that is not known, or their intervals touch."""
    if proxy not in distances or other_proxy not in distances:
        return None
    order = compare(distances[proxy], distances[other_proxy])
    if order == "within":
        return None
    return (proxy, other_proxy) if order == "below" else (other_proxy, proxy)


def _gap_text(gap: Estimate | None) -> str:
    return "–" if gap is None else nats(gap.value)


def _cost_order(first: tuple[Estimate, Estimate], second: tuple[Estimate, Estimate]) -> Order:
    """Of two costs, each after its overlap; overlaps that may be the same order nothing."""
    (overlap, cost), (other_overlap, other_cost) = first, second
    return "within" if compare(overlap, other_overlap) == "within" else compare(cost, other_cost)


def _by_penalty(line: Iterable[Setting], which: Gap) -> dict[float, Setting]:
    """The settings with λ > 0 whose gap was measured."""
    return {
        setting.value: setting
        for setting in line
        if setting.value and setting.measured(which) is not None
    }


def _evidence_text(evidence: Sequence[str]) -> str:
    more = len(evidence) - LINES_QUOTED
    text = "; ".join(evidence[:LINES_QUOTED]) + (f"; and {more} more" if more > 0 else "")
    return f"{text}."
