"""How a number, a share and a measured point are put into words."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from trimtab.config.methods import ALIGNED, DIAL, number
from trimtab.results.result import OUT_OF_REACH, Point
from trimtab.stats import Estimate, LimitVerdict, verdict

LONGEST_NAME = 34
MOST_UNSPENT = 0.5
"""Of a budget, a share spent below which a word is said."""
_VERDICTS: dict[LimitVerdict, str] = {
    "within": "within {}",
    "beyond": "beyond {}",
    "undecided": "undecided, as its interval holds {}",
}
VERDICTS: dict[LimitVerdict, str] = {
    outcome: template.format("the budget") for outcome, template in _VERDICTS.items()
}


def nats(value: float) -> str:
    """A gap or a loss: three digits that matter, or "< 0.0001".

    >>> [nats(v) for v in (0.0684612, 1.5, -123.0, 99.96, 7e-5, 4e-6, -4e-6, 0.0)]
    ['0.0685', '1.50', '−123', '100', '0.0001', '< 0.0001', '0', '0']
    """
    if math.isinf(value):
        return number(value)
    if abs(value) < 5e-5:
        return "< 0.0001" if value > 0 else "0"
    size = abs(value)
    digits = f"{size:.4f}" if size < 1e-4 else f"{size:#.3g}".removesuffix(".")
    if size >= 100:
        digits = f"{size:.0f}"
    return f"−{digits}" if value < 0 else digits


def interval(estimate: Estimate) -> str:
    """The 95 % interval, or nothing where the value is exact.

    >>> interval(Estimate(1.5, 1.4, 1.6, "nats per token", "estimate"))
    '[1.40, 1.60]'
    """
    if estimate.low == estimate.high:
        return ""
    return f"[{nats(estimate.low)}, {nats(estimate.high)}]"


def estimate_in_words(estimate: Estimate | None) -> str:
    """Value and interval without the unit, or a dash where nothing was measured."""
    if estimate is None:
        return "–"
    return f"{nats(estimate.value)} {interval(estimate)}".rstrip()


def before_and_after(start: Estimate, now: Estimate, change: Estimate | None) -> str:
    """How a loss went from one model to another, with the interval of the change.

    >>> loss = lambda *ends: Estimate(*ends, "nats per token", "estimate")
    >>> before_and_after(loss(1.849, 1, 2), loss(1.829, 1, 2), loss(-0.02, -0.033, -0.009))
    '1.849 → 1.829 (−0.020 [−0.033, −0.009])'
    """
    text = f"{start.value:.3f} → {now.value:.3f}"
    return text if change is None else f"{text} ({change_in_words(change)})"


def change_in_words(change: Estimate, digits: int | None = None) -> str:
    """A change with its sign and its interval, to three decimals, or four where it is small.

    Args:
        digits: decimals, where a table has as many in every row.

    >>> change_in_words(Estimate(0.0042, 0.0013, 0.0071, "nats per token", "estimate"))
    '+0.0042 [+0.0013, +0.0071]'
    """
    if digits is None:
        digits = 3 if abs(change.value) >= 0.01 else 4
    value, low, high = (
        "0" if end == 0 else f"{end:+.{digits}f}".replace("-", "−")
        for end in (change.value, change.low, change.high)
    )
    return value if change.low == change.high else f"{value} [{low}, {high}]"


def unbroken(words: str) -> str:
    """The words with intervals, percentages and settings that no line break parts.

    >>> unbroken("by 0.1 [0.05, 0.15]").split(" ")[-1]
    '[0.05,\\xa00.15]'
    >>> unbroken("Case I, λ = 1: 8 %").split(" ")[2:]
    ['λ\\xa0=\\xa01:', '8\\xa0%']
    """
    return re.sub(
        r"\[[^\]]*\]|\w = \S| %|\bp 0|\bp < 0", lambda match: match[0].replace(" ", "\u00a0"), words
    )


def listed(names: Sequence[str]) -> str:
    """Names as a sentence has them.

    >>> listed(["a"]), listed(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    *before, last = names
    return f"{', '.join(before)} and {last}" if before else last


def percent(share: float) -> str:
    """A share as a percentage.

    >>> percent(0.254), percent(0.004), percent(1e-6)
    ('25 %', '0.4 %', '< 0.01 %')
    """
    value = 100 * share
    if 0 < value < 0.01:
        return "< 0.01 %"
    return f"{value:.0f} %" if value >= 1 or value == 0 else f"{value:.1g} %"


def points_in_words(change: Estimate) -> str:
    """A change of a share, in percentage points.

    >>> points_in_words(Estimate(-0.94, -0.98, -0.88, "share", "estimate"))
    '−94 points [−98, −88]'
    """
    value, low, high = (
        f"{round(100 * end):+d}".replace("-", "−").replace("+0", "0")
        for end in (change.value, change.low, change.high)
    )
    return f"{value} points" if change.low == change.high else f"{value} points [{low}, {high}]"


def area_in_words(share: Estimate) -> str:
    """A share of an area, to three digits.

    >>> area_in_words(Estimate(-0.0123, -0.02, -0.004, "share", "estimate"))
    '−0.012 [−0.020, −0.004]'
    """
    spread = f" [{share.low:.3f}, {share.high:.3f}]" if share.low < share.high else ""
    return f"{share.value:.3f}{spread}".replace("-", "−")


def p_in_words(value: float) -> str:
    """A p-value to two digits that matter.

    >>> p_in_words(0.0213), p_in_words(1e-6)
    ('0.021', '< 0.001')
    """
    return "< 0.001" if value < 0.001 else f"{value:.2g}"


def share_in_words(rate: Estimate) -> str:
    """A share and its interval as percentages.

    >>> share_in_words(Estimate(0.254, 0.2, 0.3, "share of harmful prompts", "estimate"))
    '25 % [20 %, 30 %]'
    """
    if rate.low == rate.high:
        return percent(rate.value)
    return f"{percent(rate.value)} [{percent(rate.low)}, {percent(rate.high)}]"


def rate_in_words(rate: Estimate) -> str:
    """A share and its interval in per cent, to a tenth.

    >>> rate_in_words(Estimate(0.0123, 0.0031, 0.044, "share of harmful prompts", "estimate"))
    '1.2 % (0.3 to 4.4)'
    """
    return f"{100 * rate.value:.1f} % ({100 * rate.low:.1f} to {100 * rate.high:.1f})"


def limit_verdict(outcome: LimitVerdict, limit: float) -> str:
    """How a rate keeps to a limit, a share.

    >>> limit_verdict("within", 0.02), limit_verdict("undecided", 0.005)
    ('within the limit of 2 %', 'undecided, as its interval holds the limit of 0.5 %')
    """
    return _VERDICTS[outcome].format(f"the limit of {100 * limit:g} %")


def budget_in_words(point: Point) -> str:
    """Whether a point keeps to its budget on held-out rows, or by how much it does not."""
    change, budget = point.safety_change, point.budget
    assert change is not None
    assert budget is not None
    text = (
        f"budget {number(budget)}: held-out change of the safety loss {estimate_in_words(change)} "
        f"{change.unit}, {'exact' if change.kind == 'exact' else f'an {change.kind}'}"
    )
    outcome = verdict(change, budget)
    text = f"{text}: {VERDICTS[outcome]}"
    if outcome != "within" and point.multiplier is not None and point.multiplier >= OUT_OF_REACH:
        return f"{text}, and out of reach: at λ = {number(point.multiplier)} the task hardly counts"
    spent = spent_in_words(change, budget)
    if not spent:
        return text
    text = f"{text}; {spent}"
    if point.validation_rows_wanted is None or not 0 < change.value < MOST_UNSPENT * budget:
        return text
    return (
        f"{text}, as validation rows allow: {point.validation_rows_wanted:,} would let four fifths "
        "be spent"
    )


def spent_in_words(rise: Estimate, budget: float) -> str:
    """How much of a budget the rise of the safety loss takes; empty beyond it and of no share.

    >>> spent_in_words(Estimate(0.04, 0.03, 0.05, "nats per token", "estimate"), 0.1)
    '40 % [30 %, 50 %] of it is spent'
    >>> spent_in_words(Estimate(0.02, -0.01, 0.04, "nats per token", "estimate"), 0.1)
    'only 20 % [0 %, 40 %] of it is spent'
    """
    if not 0 < budget < math.inf or verdict(rise, budget) == "beyond":
        return ""
    if rise.high <= 0:
        return "none of it is spent"
    value, low, high = (
        percent(max(0.0, end) / budget) for end in (rise.value, rise.low, rise.high)
    )
    ends = "" if rise.low == rise.high else f" [{low}, {high}]"
    only = "only " if rise.high < MOST_UNSPENT * budget else ""
    return f"{only}{value}{ends} of it is spent"


def shortened(name: str, longest: int = LONGEST_NAME) -> str:
    """A name that fits a legend: the middle of a long one gives way.

    >>> shortened("an-organisation/a-data-set-with-a-very-long-name")
    'an-organisation/…th-a-very-long-name'
    """
    if len(name) <= longest:
        return name
    half = longest // 2
    return f"{name[: half - 1]}…{name[-half - 2 :]}"


def hover(point: Point) -> tuple[str, ...]:
    """All that a point knows, line by line."""
    lines = [point.method.title]
    if point.method is not ALIGNED:
        lines.append(point.spec.label)
    if point.method is DIAL and point.multiplier is not None:
        lines.append(f"trained at λ = {number(point.multiplier)}")
    if point.budget_verdict is not None:
        lines.append(budget_in_words(point))
    lines.append(f"safety: {point.proxy or '–'} · task: {point.task} · seed {point.seed}")
    for name, loss, gap in (
        ("alignment", point.alignment_loss, point.alignment_gap),
        ("proxy", point.proxy_loss, point.proxy_gap),
        ("capability", point.capability_loss, point.capability_gap),
    ):
        if loss is not None:
            lines.append(f"{name} loss {estimate_in_words(loss)}")
        if gap is not None:
            lines.append(f"{name} gap {estimate_in_words(gap)}")
    lines.append(f"losses and gaps in {point.capability_loss.unit}")
    lines.append(f"distance {number(point.distance)} ({percent(point.relative_distance)} of ‖θₛ‖)")
    lines.append(f"{point.train_tokens:,} tokens in {number(point.wall_seconds)} s")
    return tuple(lines)
