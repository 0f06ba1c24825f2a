"""The last step to a budget: how far to go from the aligned model along the trained direction."""

from __future__ import annotations

import math
from collections.abc import Callable

from trimtab.stats import Estimate

_SLACK = 0.01
_LOOKS = 3
_FIRST_ORDER, _ORDERS = 1.5, (0.5, 4.0)


def scale_to_budget(
    change_at: Callable[[float], Estimate], budget: float
) -> tuple[float, Estimate]:
    """The a ≤ 1 at which the interval of the change ends at the budget, and that change.

    `a` scales θ − θ_s. A model whose change itself, and not its upper limit, were brought to the
    budget would be beyond it as often as not.

    At a minimiser of L_f + λL_ŝ every small move trades the two losses at the rate λ to first
    order, a scaling as well as a change of λ: the last step to the budget costs next to no
    capability. It is interpolation with the aligned model, as in WiSE-FT.

    Looks at a = 1 and at up to three further places, each where the power law of the upper limit
    through the last two (through the first: of order 3/2, between a slope at θ_s and a curvature)
    comes to within 2 % of the budget and not beyond. Both the change and its error vanish with a.
    Only a budget above 0 can be met so, as the change at a = 0 is 0. A model that has not spent its
    budget is left as it is: stretching it buys less capability than a smaller λ would.

    >>> scale, change = scale_to_budget(lambda a: Estimate.exact(0.1 * a**2, "nats"), 0.05)
    >>> round(scale, 3), round(change.value, 4)
    (0.704, 0.0495)

    Source: interpolation, Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022.
    """
    looks = [(1.0, change_at(1.0))]
    order, aim = _FIRST_ORDER, (1 - _SLACK) * budget
    while budget > 0 and len(looks) <= _LOOKS:
        scale, change = looks[-1]
        if abs(change.high - aim) <= _SLACK * budget:
            break
        following = 1.0
        if change.high > 0:
            following = min(following, scale * (aim / change.high) ** (1 / order))
        if following in (place for place, _ in looks):
            break
        looks.append((following, change_at(following)))
        order = _order(looks[-2], looks[-1])
    within = [look for look in looks if look[1].high <= budget]
    if budget > 0 and within:
        return max(within, key=lambda look: look[1].high)
    return min(looks, key=lambda look: look[1].high)


def _order(one: tuple[float, Estimate], other: tuple[float, Estimate]) -> float:
    if min(one[1].high, other[1].high) <= 0:
        return _FIRST_ORDER
    order = math.log(other[1].high / one[1].high) / math.log(other[0] / one[0])
    return min(max(order, _ORDERS[0]), _ORDERS[1])
