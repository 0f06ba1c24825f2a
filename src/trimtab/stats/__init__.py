"""Estimates and their 95 % intervals: every statistic that a number of trimtab goes by, once.

Rows are draws; arrays of rows have shape (rows,), "nats and tokens" shape (2, rows). Coverage by
simulation, beside the percentile bootstrap: benchmarks/results/coverage.txt.
"""

from trimtab.stats.agreement import cohen_kappa
from trimtab.stats.estimate import (
    FEW_ROWS,
    Array,
    Estimate,
    Kind,
    LimitVerdict,
    note_on_rows,
    verdict,
)
from trimtab.stats.every_look import limit_at_every_look
from trimtab.stats.fronts import front, height_above, height_above_at_most, heights_above_means
from trimtab.stats.resampling import RESAMPLES, jackknife, loss_estimate, resampled_means
from trimtab.stats.seeds import (
    adjusted_over_seeds,
    bounded_mean,
    holm,
    over_seeds,
    p_value_over_seeds,
    share_change_over_seeds,
    share_over_seeds,
    statistic_over_seeds,
    student_mean,
    student_p_value,
)
from trimtab.stats.shares import (
    counted_by_row,
    exact_share,
    rows_to_tell_share,
    share,
    share_change,
    share_with_variance,
)
from trimtab.stats.statistic import (
    Statistic,
    first_of_each,
    group_numbers,
    mean_of,
    paired_difference,
    ratio,
    summed,
)

__all__ = [
    "FEW_ROWS",
    "RESAMPLES",
    "Array",
    "Estimate",
    "Kind",
    "LimitVerdict",
    "Statistic",
    "adjusted_over_seeds",
    "bounded_mean",
    "cohen_kappa",
    "counted_by_row",
    "exact_share",
    "first_of_each",
    "front",
    "group_numbers",
    "height_above",
    "height_above_at_most",
    "heights_above_means",
    "holm",
    "jackknife",
    "limit_at_every_look",
    "loss_estimate",
    "mean_of",
    "note_on_rows",
    "over_seeds",
    "p_value_over_seeds",
    "paired_difference",
    "ratio",
    "resampled_means",
    "rows_to_tell_share",
    "share",
    "share_change",
    "share_change_over_seeds",
    "share_over_seeds",
    "share_with_variance",
    "statistic_over_seeds",
    "student_mean",
    "student_p_value",
    "summed",
    "verdict",
]
