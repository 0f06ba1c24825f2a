"""From settings to a panel: the axes they need, their marks, their labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from trimtab.analysis.groups import Gap, RateName, Setting
from trimtab.analysis.labels import estimate_in_words, hover, shortened
from trimtab.config.methods import ALIGNED, CASE_1, NO_VALUE, PLAIN
from trimtab.evaluate.rates import ANSWERED, REFUSALS
from trimtab.report.axes import gap_axis, penalty_axis, radius_axis, rate_axis
from trimtab.report.chart import Axis, Curve, Ink, Line, Mark, Panel, Side
from trimtab.report.palette import PLAIN_INK, START_INK
from trimtab.results.gaps import OVER_START
from trimtab.results.result import Estimate

Coordinate = Gap | RateName | Literal["penalty", "radius"]

LABELS: dict[Coordinate, str] = {
    "penalty": "penalty λ",
    "radius": "radius ε",
    "alignment gap": "alignment gap (nats per token)",
    "proxy gap": "proxy gap (nats per token)",
    "capability gap": "capability gap (nats per token)",
    "refusal rate": f"{REFUSALS.in_words} (share)",
    "answer rate": f"{ANSWERED.in_words} (share)",
}
LABELS_OVER_START: dict[Coordinate, str] = {
    "alignment gap": "safety loss, change from θₛ (nats per token)",
    "proxy gap": "proxy’s loss, change from θₛ (nats per token)",
    "capability gap": "task loss, change from θₛ (nats per token)",
}
SEVERAL_LIMITS = (
    "Each task has a limit of its own: a mark may lie below another task’s, and below its own by "
    "no more than its interval."
)
CORNER = (
    "A limit with a corner is that of a task that shares no prompt with the safety data: there "
    "nothing has to be given up."
)
LABEL_ROOM = (0.17, 0.075)
"""How far a label must stay from other marks and labels, as shares of the panel."""
SEED_ROOM = 0.036
"""The same, upright, from the small mark of a seed."""
LETTER, BESIDE_MARK, OVERHANG = 0.019, 0.03, 0.06
"""The width of a label's letter, how far from its mark it starts, and how far it may stand out of
the axes on the right, as shares of the panel."""
LONGEST_TASK = 16
"""In letters, beside a mark."""
FINEST_STEP = 0.004
"""Points of a curve nearer than this share of the panel are drawn as one."""
ANCHORS = ("θₛ", "plain")
FAR_RIGHT = 0.85
"""From this share of the panel on a label stands rather to the left of its mark."""
SIDES: tuple[Side, ...] = ("right", "left", "lower right", "lower left")


@dataclass(frozen=True)
class Series:
    """The settings of one line, in the order they are joined."""

    name: str
    ink: Ink
    settings: tuple[Setting, ...]
    joined: bool = True


def panel(
    title: str,
    series: Sequence[Series],
    x: Coordinate,
    y: Gap | RateName,
    curves: Sequence[Curve] = (),
    note: str = "",
) -> Panel | None:
    """The panel of these series; None where none has both coordinates, or all the one strength."""
    series = [
        replace(line_series, settings=_with_coordinates(line_series.settings, x, y))
        for line_series in series
    ]
    if not any(line_series.joined and line_series.settings for line_series in series):
        return None
    series = _with_plain_apart(series, x, y)
    series = [line_series for line_series in series if line_series.settings]
    settings = [setting for line_series in series for setting in line_series.settings]
    against_strength = x in ("penalty", "radius")
    if against_strength and len({setting.value for setting in settings}) < 2:
        return None
    x_axis = _axis(x, settings, may_be_log=False)
    y_axis = _axis(y, settings, may_be_log=against_strength)
    if x_axis is None or y_axis is None:
        return None
    lines = tuple(_line(line_series, x, y, x_axis, y_axis) for line_series in series)
    if against_strength:
        lines = tuple(_without_labels(line) for line in lines)
    lines = tuple(
        _with_names(line, line_series) for line, line_series in zip(lines, series, strict=True)
    )
    lines = labelled(lines, x_axis, y_axis)
    visible = [_cut(curve, x_axis, y_axis) for curve in curves]
    if any(_is_corner(curve) for curve in visible):
        note = f"{note} {CORNER}".strip()
        visible = [
            _with_sides(curve, x_axis, y_axis) if _is_corner(curve) else curve for curve in visible
        ]
    if sum(curve.shaded for curve in visible) > 1:
        note = f"{note} {SEVERAL_LIMITS}".strip()
        visible = [replace(curve, shaded=False) for curve in visible]
    shown = tuple(curve for curve in visible if len(curve.x) > 1)
    return Panel(title, x_axis, y_axis, lines, shown, note)


def _with_plain_apart(series: Sequence[Series], x: Coordinate, y: Gap | RateName) -> list[Series]:
    """Plain fine-tuning as a line of its own, each of its models once, before the start's.

    λ = 0 of any safety data, ε = ∞ and an infinite budget are the same model, and look alike.
    """
    places: dict[tuple[float, float], Setting] = {}
    for setting in (setting for each in series for setting in each.settings if setting.is_plain):
        at_x, at_y = _coordinate(setting, x), _coordinate(setting, y)
        assert at_x is not None
        assert at_y is not None
        places.setdefault((at_x.value, at_y.value), setting)
    apart = Series(PLAIN.title, PLAIN_INK, tuple(places.values()), joined=False)
    without = [
        replace(each, settings=tuple(s for s in each.settings if not s.is_plain)) for each in series
    ]
    is_there = [each.ink == PLAIN_INK for each in series]
    if any(is_there):
        without[is_there.index(True)] = apart
        return without
    starts = [each for each in without if each.ink == START_INK]
    return [*(each for each in without if each.ink != START_INK), apart, *starts]


def _with_coordinates(settings: Sequence[Setting], *coordinates: Coordinate) -> tuple[Setting, ...]:
    return tuple(
        setting
        for setting in settings
        if all(_coordinate(setting, which) is not None for which in coordinates)
    )


def _coordinate(setting: Setting, which: Coordinate) -> Estimate | None:
    if which == "penalty" or which == "radius":
        value = setting.value
        if value is None or setting.method.hyperparameter != which:
            return None
        return Estimate(value, value, value, "", "exact")
    return setting.measured(which)


def _axis(which: Coordinate, settings: Sequence[Setting], *, may_be_log: bool) -> Axis | None:
    with_seeds = [
        mean_or_seed for setting in settings for mean_or_seed in (setting, *_seeds(setting))
    ]
    if which == "penalty" or which == "radius":
        values = [
            estimate.value
            for mean_or_seed in with_seeds
            if (estimate := _coordinate(mean_or_seed, which))
        ]
        if which == "penalty":
            return penalty_axis(values, LABELS[which]) if max(values) > 0 else None
        return radius_axis(values, LABELS[which]) if min(values) < math.inf else None
    if which == "refusal rate" or which == "answer rate":
        return rate_axis(LABELS[which])
    plain = [
        gap
        for mean_or_seed in with_seeds
        if mean_or_seed.is_plain and (gap := mean_or_seed.measured(which))
    ]
    constrained = [
        gap
        for mean_or_seed in with_seeds
        if not mean_or_seed.is_plain and (gap := mean_or_seed.measured(which))
    ]
    over_start = any(gap.unit == OVER_START for gap in (*constrained, *plain))
    label = (LABELS_OVER_START if over_start else LABELS)[which]
    return gap_axis(label, constrained, plain, may_be_log=may_be_log and not over_start)


def _line(series: Series, x: Coordinate, y: Gap | RateName, x_axis: Axis, y_axis: Axis) -> Line:
    marks = [_mark(setting, x, y, x_axis, y_axis, series.joined) for setting in series.settings]
    # A mean tells the most, and the table all: a page of many seeds would grow with their words.
    seeds = [
        replace(
            _mark(seed, x, y, x_axis, y_axis, False),
            hover=(seed.name, f"seed {seed.points[0].seed}"),
        )
        for setting in series.settings
        for seed in _seeds(setting)
    ]
    return Line(series.name, series.ink, tuple(marks), tuple(seeds))


def _mark(
    setting: Setting, x: Coordinate, y: Gap | RateName, x_axis: Axis, y_axis: Axis, joined: bool
) -> Mark:
    at_x, at_y = _coordinate(setting, x), _coordinate(setting, y)
    assert at_x is not None
    assert at_y is not None
    alone = len(setting.points) == 1
    # θ at λ = 0 is not the limit of θ_λ: contexts without task data are then left to drift.
    jump = setting.method is CASE_1 and setting.is_plain
    off_scale = x_axis.in_strip(at_x.value) or y_axis.in_strip(at_y.value)
    return Mark(
        x=x_axis.place(at_x.value),
        y=y_axis.place(at_y.value),
        x_interval=x_axis.place_interval(at_x.value, (at_x.low, at_x.high)) if alone else None,
        y_interval=y_axis.place_interval(at_y.value, (at_y.low, at_y.high)) if alone else None,
        hover=hover(setting.points[0]) if alone else _mean_hover(setting),
        joined=joined and not jump and not off_scale,
        label=_label(setting),
    )


def _label(setting: Setting) -> str:
    if setting.method is ALIGNED:
        return ANCHORS[0]
    if setting.is_plain:
        return ANCHORS[1]
    return "" if setting.label == NO_VALUE else setting.label


def _seeds(setting: Setting) -> tuple[Setting, ...]:
    if len(setting.points) == 1:
        return ()
    return tuple(replace(setting, points=(point,)) for point in setting.points)


def _mean_hover(setting: Setting) -> tuple[str, ...]:
    gaps: tuple[Gap, ...] = ("alignment gap", "proxy gap", "capability gap")
    seeds = ", ".join(str(point.seed) for point in setting.points)
    return (
        setting.name,
        f"safety: {setting.proxy or '–'} · task: {setting.task}",
        f"mean over seeds {seeds}",
        *(
            f"{which} {estimate_in_words(gap)} {gap.unit}"
            for which in gaps
            if (gap := setting.measured(which))
        ),
    )


def _with_names(line: Line, series: Series) -> Line:
    """Several starts or plain models are labelled with what they differ by: task, safety data."""
    if series.ink not in (START_INK, PLAIN_INK):
        return line
    names = [(setting.task, setting.proxy or "–") for setting in series.settings]
    differing = [place for place in (0, 1) if len({name[place] for name in names}) > 1]
    if not differing:
        return line
    marks = tuple(
        replace(
            mark,
            label=", ".join(
                (_label(setting), *(shortened(name[place], LONGEST_TASK) for place in differing))
            ),
        )
        for mark, setting, name in zip(line.marks, series.settings, names, strict=True)
    )
    return replace(line, marks=marks)


def _without_labels(line: Line) -> Line:
    return replace(line, marks=tuple(replace(mark, label=None) for mark in line.marks))


def labelled(lines: tuple[Line, ...], x_axis: Axis, y_axis: Axis) -> tuple[Line, ...]:
    """Keep the labels of what starts and ends a line, where no mark and no label is in their way.

    The two that every plane is read by, the start and plain fine-tuning, are labelled before all
    and keep their label, however crowded.
    """
    taken = [(_share(mark, x_axis, y_axis), 0.0) for line in lines for mark in line.marks]
    seeds = [_share(seed, x_axis, y_axis) for line in lines for seed in line.seeds]
    places = [
        (line, number) for line in lines for number in _ends(line) if line.marks[number].label
    ]
    places.sort(key=lambda place: not _is_anchor(place[0].marks[place[1]]))
    label_sides: dict[tuple[int, int], Side] = {}
    for line, number in places:
        mark = line.marks[number]
        position = _share(mark, x_axis, y_axis)
        side = _side(mark, position, [place for place in taken if place[0] != position], seeds)
        if side is not None:
            taken.append((_beside(position, side, _room(mark)), _room(mark)))
            label_sides[id(line), number] = side
    return tuple(
        replace(
            line,
            marks=tuple(
                replace(
                    mark,
                    label=mark.label if (id(line), number) in label_sides else None,
                    label_side=label_sides.get((id(line), number), "right"),
                )
                for number, mark in enumerate(line.marks)
            ),
        )
        for line in lines
    )


def _side(
    mark: Mark,
    position: tuple[float, float],
    taken: Sequence[tuple[tuple[float, float], float]],
    seeds: Sequence[tuple[float, float]],
) -> Side | None:
    """Where beside its mark a label has the fewest marks, labels and seeds in its way.

    A label of no anchor has to be clear of marks and labels.
    """
    length = BESIDE_MARK + LETTER * len(mark.label or "")

    def in_the_way(side: Side) -> tuple[int, int]:
        middle = _beside(position, side, _room(mark))
        of_seeds = _beside(position, side, length)
        return (
            sum(
                _near(middle, place, max(LABEL_ROOM[0], (_room(mark) + room) / 2))
                for place, room in taken
            ),
            sum(_near(of_seeds, seed, length / 2, SEED_ROOM) for seed in seeds),
        )

    # Near the right edge the left is tried first.
    sides = sorted(SIDES, key=lambda side: position[0] > FAR_RIGHT and "right" in side)
    inside = [side for side in sides if 0 <= position[0] + _towards(side) * length <= 1 + OVERHANG]
    best = min(inside or sides, key=in_the_way)
    return best if _is_anchor(mark) or not in_the_way(best)[0] else None


def _beside(position: tuple[float, float], side: Side, room: float) -> tuple[float, float]:
    """The middle of a label that takes this room."""
    upwards = -1 if side.startswith("lower") else 1
    return position[0] + _towards(side) * room / 2, position[1] + upwards * LABEL_ROOM[1] / 2


def _towards(side: Side) -> int:
    return -1 if side.endswith("left") else 1


def _room(mark: Mark) -> float:
    return max(LABEL_ROOM[0], LETTER * len(mark.label or ""))


def _ends(line: Line) -> list[int]:
    """Which marks of a line may be labelled: its ends, and those that are not joined."""
    joined = [number for number, mark in enumerate(line.marks) if mark.joined]
    apart = [number for number, mark in enumerate(line.marks) if not mark.joined]
    return [*dict.fromkeys([*joined[:1], *joined[-1:]]), *apart]


def _share(mark: Mark, x_axis: Axis, y_axis: Axis) -> tuple[float, float]:
    return x_axis.share(mark.x), y_axis.share(mark.y)


def _is_anchor(mark: Mark) -> bool:
    return mark.label is not None and mark.label.startswith(ANCHORS)


def _near(
    first: tuple[float, float],
    second: tuple[float, float],
    room: float,
    height: float = LABEL_ROOM[1],
) -> bool:
    return abs(first[0] - second[0]) < room and abs(first[1] - second[1]) < height


def _is_corner(curve: Curve) -> bool:
    """Whether a limit is one point: some model is the best of all in both losses."""
    return curve.shaded and len(curve.x) == 1


def _with_sides(curve: Curve, x_axis: Axis, y_axis: Axis) -> Curve:
    """A limit that is one point, with the sides of the corner that no model passes."""
    ((x, y),) = zip(curve.x, curve.y, strict=True)
    return replace(curve, x=(x, x, x_axis.high), y=(y_axis.high, y, y))


def _cut(curve: Curve, x_axis: Axis, y_axis: Axis) -> Curve:
    """The part of a curve on the scales, short of any strip, without points too near to see."""
    inside = [
        (x, y)
        for x, y in zip(curve.x, curve.y, strict=True)
        if x_axis.scales(x) and y_axis.scales(y)
    ]
    points = inside[:1]
    for point in inside[1:]:
        ends = zip((x_axis, y_axis), point, points[-1], strict=True)
        if max(abs(axis.share(a) - axis.share(b)) for axis, a, b in ends) > FINEST_STEP:
            points.append(point)
    points += [point for point in inside[-1:] if point != points[-1]]
    return replace(curve, x=tuple(x for x, _ in points), y=tuple(y for _, y in points))
