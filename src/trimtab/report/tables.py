"""Tables for the page: what the figures show, in numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trimtab.analysis.bounds import BoundBeside
from trimtab.analysis.labels import (
    area_in_words,
    estimate_in_words,
    nats,
    p_in_words,
    percent,
)
from trimtab.analysis.methods import Area, MethodResult
from trimtab.analysis.optimality_gap import OptimalityGap, PointOptimalityGap
from trimtab.config.methods import CASE_1, number
from trimtab.config.run_spec import RunSpec
from trimtab.config.yaml_io import by_path
from trimtab.results.data_summary import DataSummary
from trimtab.results.gaps import OVER_LOWEST
from trimtab.results.result import Point
from trimtab.results.store import Failure

WHAT_IT_IS = {
    "bound": "a bound, every number in it being known.",
    "estimate": "theory’s estimate for the exact minimiser, which guarantees nothing.",
    "exact": "exact.",
}


NAMES = ("method", "setting", "safety", "task", "seed")
"""The columns that `names_of` fills."""
METHODS_CAPTION = (
    "Estimates. Hypervolume: the share of the rectangle between the aligned model and plain "
    "fine-tuning that a method’s settings dominate; more is better, and settings well spread have "
    "more. Chord area: the share above the chords of its settings and those two models (near a "
    "half of them alone), which says where its frontier lies, and depends less on how settings are "
    "spread. Intervals are 95 % over seeds. "
    "A setting is beaten where one of another method is better in both gaps, each beyond its "
    "interval. p is of no difference from Case I’s, adjusted by Holm over the column. Tokens "
    "are of all trainings behind the settings of one seed: a dial has one, and so have methods "
    "after training. Memory is beyond plain fine-tuning’s."
)


@dataclass(frozen=True)
class Row:
    """Cells of one row; `is_alarm` makes it stand out."""

    cells: tuple[str, ...]
    is_alarm: bool = False


@dataclass(frozen=True)
class Table:
    """Words in columns; the first `names` columns are words, the others numbers."""

    caption: str
    columns: tuple[str, ...]
    names: int
    rows: tuple[Row, ...]


def losses_table(points: Iterable[Point]) -> Table:
    """Every measured model with its losses, and what its training cost."""
    return _of_points(
        points,
        "Losses in nats per token, with 95 % intervals, and what was trained.",
        {
            "alignment loss": lambda point: estimate_in_words(point.alignment_loss),
            "proxy loss": lambda point: estimate_in_words(point.proxy_loss),
            "capability loss": lambda point: estimate_in_words(point.capability_loss),
            "tokens": lambda point: f"{point.train_tokens:,}",
            "seconds": lambda point: f"{point.wall_seconds:.1f}",
        },
    )


def gaps_table(points: Iterable[Point]) -> Table:
    """Every measured model with its gaps, and how far it moved."""
    return _of_points(
        points,
        "Gaps in nats per token, with 95 % intervals; the share of task prompts among safety "
        "prompts; how far the weights moved, ‖θ − θₛ‖.",
        {
            "alignment gap": lambda point: estimate_in_words(point.alignment_gap),
            "proxy gap": lambda point: estimate_in_words(point.proxy_gap),
            "capability gap": lambda point: estimate_in_words(point.capability_gap),
            "overlap": lambda point: (
                "–" if point.context_overlap is None else percent(point.context_overlap.value)
            ),
            "distance": lambda point: number(point.distance),
        },
    )


def _of_points(
    points: Iterable[Point], caption: str, columns: Mapping[str, Callable[[Point], str]]
) -> Table:
    """A row for every point; what none of them has is no column."""
    points = list(points)
    cells = {name: [text(point) for point in points] for name, text in columns.items()}
    shown = [name for name, texts in cells.items() if any(text != "–" for text in texts)]
    rows = (
        Row((*names_of(point.spec), *(cells[name][place] for name in shown)))
        for place, point in enumerate(points)
    )
    return Table(caption, (*NAMES, *shown), len(NAMES), tuple(rows))


def budgets_table(points: Iterable[Point]) -> Table | None:
    """The models trained to a budget, and whether held-out rows bear it out; None without any."""
    columns = (
        *NAMES,
        "verdict",
        "change of the safety loss",
        "λ there",
        "task loss",
        "tokens",
    )
    rows = tuple(
        Row(
            (
                *names_of(point.spec),
                str(point.budget_verdict),
                estimate_in_words(point.safety_change),
                CASE_1.label(point.multiplier),
                estimate_in_words(point.capability_loss),
                f"{point.train_tokens:,}",
            ),
            point.budget_verdict == "beyond",
        )
        for point in points
        if point.budget_verdict is not None
    )
    caption = (
        "Models trained to a budget. The change is that of the loss on held-out safety rows from "
        "the aligned model θₛ, in nats per token, its interval that of the difference on the same "
        "rows: within the budget where all of that interval is, beyond it where none is."
    )
    return Table(caption, columns, 6, rows) if rows else None


def optimality_gap_table(gaps: Iterable[PointOptimalityGap]) -> Table:
    """Every point beside the limits of both planes."""
    columns = (
        *NAMES,
        "capability gap",
        "proxy gap",
        "limit there",
        "measured over limit",
        "alignment gap",
        "oracle's limit there",
        "measured over limit",
    )
    rows = tuple(
        Row(
            (
                *names_of(gap.point.spec),
                estimate_in_words(gap.point.capability_gap),
                *_beside_limit(gap.on_proxy),
                *_beside_limit(gap.on_original),
            ),
            gap.is_impossible,
        )
        for gap in gaps
    )
    caption = "Capability gap over the least that any model can have at the safety gap measured."
    return Table(caption, columns, 5, rows)


def bounds_tables(comparisons: Iterable[BoundBeside]) -> tuple[Table, ...]:
    """A table for each theorem and gap: its terms, its value, the optimum and what was measured."""
    return _by_theorem(comparisons, _bounds_table)


def _bounds_table(caption: str, kind: str, comparisons: Sequence[BoundBeside]) -> Table:
    terms = tuple(term.name for term in comparisons[0].bound.terms)
    knows_optimum = any(comparison.optimum is not None for comparison in comparisons)
    knows_classical = any(comparison.classical is not None for comparison in comparisons)
    columns = (
        *("λ or ε", "safety", "task", *terms, kind),
        *(["classic"] if knows_classical else []),
        *(["optimum"] if knows_optimum else []),
        *("measured", "slack"),
    )

    def cells(comparison: BoundBeside) -> Iterator[str]:
        yield comparison.setting.label
        yield comparison.setting.proxy or "–"
        yield comparison.setting.task
        yield from (nats(term.value / comparison.tokens) for term in comparison.bound.terms)
        yield nats(comparison.value)
        if knows_classical:
            yield (
                "–"
                if comparison.classical is None
                else nats(comparison.classical.value / comparison.tokens)
            )
        if knows_optimum:
            yield "–" if comparison.optimum is None else nats(comparison.optimum)
        yield estimate_in_words(comparison.measured)
        yield nats(comparison.slack)

    rows = tuple(Row(tuple(cells(comparison)), comparison.is_broken) for comparison in comparisons)
    return Table(caption, columns, 3, rows)


def bounds_in_short(comparisons: Iterable[BoundBeside]) -> tuple[Table, ...]:
    """The same for a terminal: models as rows, the bound and what it stands beside."""
    return _by_theorem(comparisons, _bounds_in_short)


def _by_theorem(
    comparisons: Iterable[BoundBeside], table_of: Callable[[str, str, Sequence[BoundBeside]], Table]
) -> tuple[Table, ...]:
    groups: dict[tuple[int, str, str], list[BoundBeside]] = {}
    for comparison in comparisons:
        groups.setdefault((comparison.bound.theorem, comparison.gap, comparison.kind), []).append(
            comparison
        )
    return tuple(
        table_of(
            f"Theorem {theorem}, on the {gap}: {WHAT_IT_IS[kind]} {_unit_in_words(group)}.",
            kind,
            group,
        )
        for (theorem, gap, kind), group in groups.items()
    )


def _unit_in_words(comparisons: Sequence[BoundBeside]) -> str:
    counted_from_lowest = any(it.measured.unit == OVER_LOWEST for it in comparisons)
    unit = OVER_LOWEST if counted_from_lowest else "nats per token"
    return unit[:1].upper() + unit[1:]


def _bounds_in_short(caption: str, kind: str, comparisons: Sequence[BoundBeside]) -> Table:
    knows_optimum = any(comparison.optimum is not None for comparison in comparisons)

    def cells(comparison: BoundBeside) -> Iterator[str]:
        setting = comparison.setting
        yield ", ".join(filter(None, (setting.label, setting.proxy, setting.task)))
        yield nats(comparison.value)
        if knows_optimum:
            yield "–" if comparison.optimum is None else nats(comparison.optimum)
        yield estimate_in_words(comparison.measured)
        if not knows_optimum:
            yield nats(comparison.slack)

    columns = (
        *("model", kind),
        *(("optimum", "measured") if knows_optimum else ("measured", "slack")),
    )
    rows = tuple(Row(tuple(cells(comparison)), comparison.is_broken) for comparison in comparisons)
    return Table(caption, columns, 1, rows)


def methods_table(results: Sequence[MethodResult]) -> Table:
    """Methods by falling hypervolume, what others beat of each, and what each costs."""
    several_pairs = len({(result.proxy, result.task) for result in results}) > 1
    columns = (
        "method",
        *(("safety", "task") if several_pairs else ()),
        "hypervolume",
        "hypervolume less Case I’s",
        "chord area",
        "chord area less Case I’s",
        "beaten",
        "tokens",
        "memory",
    )
    rows = tuple(
        Row(
            (
                result.method.title,
                *((result.proxy or "–", result.task) if several_pairs else ()),
                *area_cells(result.volume),
                *area_cells(result.chords),
                f"{result.dominated} of {result.judged}" if result.judged else "–",
                f"{result.tokens:,.0f}",
                _bytes(result.extra_bytes),
            )
        )
        for result in results
    )
    return Table(METHODS_CAPTION, columns, 3 if several_pairs else 1, rows)


def area_cells(area: Area) -> tuple[str, str]:
    """An area, and its difference from another's with the adjusted p of none."""
    if area.difference is None:
        return area_in_words(area.share), "–"
    p_value = "" if area.p_value is None else f" (p {p_in_words(area.p_value)})"
    return area_in_words(area.share), f"{area_in_words(area.difference)}{p_value}"


def _bytes(count: float | None) -> str:
    if count is None:
        return "–"
    return "none" if count < 1 else f"{count / 2**20:.1f} MiB"


def data_table(data: Iterable[DataSummary]) -> Table:
    """The data sets as used."""
    rows = tuple(
        Row(
            (
                summary.role,
                summary.name,
                summary.path,
                "; ".join(summary.warnings) or "none",
                f"{summary.train_rows:,}",
                f"{summary.held_out_rows:,}",
            )
        )
        for summary in data
    )
    columns = ("role", "name", "path", "warnings", "rows trained on", "rows held out")
    return Table("The data, and what was noticed while reading it.", columns, 4, rows)


def failures_table(failures: Iterable[Failure]) -> Table:
    """Planned models that could not be made."""
    rows = tuple(Row((*names_of(failure.spec), failure.reason)) for failure in failures)
    columns = (*NAMES, "reason")
    return Table("Planned models that could not be made.", columns, 6, rows)


def settings_table(settings: Mapping[str, Any]) -> Table:
    """Every setting on its own line, a nested one by its path."""
    rows = tuple(Row((path, _setting_text(value))) for path, value in by_path(settings))
    return Table("The experiment as run.", ("setting", "value"), 2, rows)


def names_of(spec: RunSpec) -> tuple[str, ...]:
    """Method, hyperparameter, safety data, task and seed, in words."""
    method_name = spec.method.brief
    return method_name, spec.label, spec.proxy or "–", spec.task, str(spec.seed)


def _beside_limit(gap: OptimalityGap | None) -> tuple[str, str, str]:
    if gap is None:
        return "–", "–", "–"
    over = f"+{nats(gap.excess)}" if gap.excess >= 0 else nats(gap.excess)
    ratio = "" if gap.ratio is None else f" ({gap.ratio:.2f}×)"
    return estimate_in_words(gap.safety_gap), nats(gap.limit), f"{over}{ratio}"


def _setting_text(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(str, value)) or "–"
    return "–" if value is None or value == {} else str(value)
