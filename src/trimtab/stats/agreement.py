"""How far two raters agree beyond chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from trimtab.stats.estimate import Estimate
from trimtab.stats.shares import exact_share
from trimtab.stats.statistic import Statistic


def cohen_kappa(
    first: Sequence[str],
    second: Sequence[str],
    unit: str,
    of: Sequence[str] | None = None,
) -> Estimate | None:
    """κ = (pₒ − pₑ)/(1 − pₑ): agreement of two raters of the same rows, beyond that of chance.

    pₒ is the share of rows with one label from both, pₑ = Σₖ pₖ·qₖ of their shares of each label.
    The interval is the delta method's, cut to [−1, 1], of
    ψᵢ = ((dᵢ − pₒ)(1 − pₑ) − (1 − pₒ)(q(aᵢ) + p(bᵢ) − 2pₑ))/(1 − pₑ)² for row i with labels aᵢ
    and bᵢ, dᵢ = 1 where they are one. Where all ψᵢ are 0, as where all rows agree, it is that of
    the exact interval of pₒ. None where both raters have the same one label for every row: no
    agreement could then be told from chance. Where `of` names what a row is of, as the prompt of an
    answer, rows of one are not independent, their ψᵢ are added, and the exact interval is of as
    many as there are of those.

    >>> estimate = cohen_kappa(list("aabb" * 10), list("aaba" * 10), "κ")
    >>> estimate.value, round(estimate.low, 2), round(estimate.high, 2)
    (0.5, 0.26, 0.74)

    Source: Fleiss, Cohen and Everitt, "Large sample standard errors of kappa and weighted kappa",
    Psychological Bulletin 72, 1969.
    """
    labels = sorted({*first, *second})
    ours = np.array([[row_label == label for label in labels] for row_label in first], dtype=float)
    theirs = np.array(
        [[row_label == label for label in labels] for row_label in second], dtype=float
    )
    share_of_ours, share_of_theirs = ours.mean(axis=0), theirs.mean(axis=0)
    agrees = (ours * theirs).sum(axis=1)
    observed, expected = float(agrees.mean()), float(share_of_ours @ share_of_theirs)
    if len(labels) < 2:
        return None
    value = (observed - expected) / (1 - expected)
    by_chance = ours @ share_of_theirs + theirs @ share_of_ours - 2 * expected
    influence = (agrees - observed) * (1 - expected) - (1 - observed) * by_chance
    if np.abs(influence).max() < 1e-12:
        independent = len(first) if of is None else len(set(of))
        agreed = exact_share(round(observed * independent), independent, unit)
        ends = [(end - expected) / (1 - expected) for end in (agreed.low, agreed.high)]
        return Estimate(value, max(-1.0, ends[0]), ends[1], unit, "estimate")
    by_row = influence / (1 - expected) ** 2
    if of is not None:
        _, place = np.unique(list(of), return_inverse=True)
        sums = np.bincount(place, by_row)
        by_row = sums * (len(sums) / len(first))
    estimate = Statistic(value, {"rows": by_row}).estimate(unit)
    return replace(estimate, low=max(-1.0, estimate.low), high=min(1.0, estimate.high))
