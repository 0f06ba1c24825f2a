"""Areas in the plane of two gaps: hypervolume, and the price of having only a proxy."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from trimtab.theory.frontier import exact_frontier, oracle_frontier
from trimtab.theory.world import Array, Distribution

# Twenty points to a decade: the chords of both curves then err by less than 1e-3 of the area.
PRICE_PENALTIES = np.concatenate([[0.0], np.logspace(-6, 6, 241), [math.inf]])


def hypervolume(points: ArrayLike, reference: ArrayLike) -> float:
    """Area of {z ≤ reference : some point ≤ z in both coordinates}; smaller coordinates are better.

    Args:
        points: shape (K, 2), such as (alignment gap, capability gap) of K models, in any order.
            Points beyond the reference, infinite ones among them, add nothing.
        reference: shape (2,), the worst corner that counts.

    Raises:
        ValueError: on wrong shapes, NaN, or an infinite reference or a point at minus infinity.

    >>> hypervolume([[0.0, 2.0], [1.0, 1.0]], reference=[2.0, 3.0])
    3.0

    Source: Zitzler and Thiele 1998, in two dimensions.
    """
    corner = _checked_reference(reference)
    cloud = _checked_points(points)
    inside = cloud[np.all(cloud < corner, axis=1)]
    if len(inside) == 0:
        return 0.0
    inside = inside[np.argsort(inside[:, 0])]
    lowest = np.minimum.accumulate(inside[:, 1])
    widths = np.diff(np.append(inside[:, 0], corner[0]))
    return float(widths @ (corner[1] - lowest))


def chord_area(points: ArrayLike, reference: ArrayLike) -> float:
    """Area up to `reference` above the lower convex hull of points; smaller coordinates are better.

    The hypervolume counts how densely a frontier is filled, too. Here chords fill what lies between
    its points, so that it says where they lie; of a curved frontier few points still lose a little.

    Args:
        points: as of `hypervolume`.
        reference: shape (2,), the worst corner that counts.

    Raises:
        ValueError: as `hypervolume`.

    >>> chord_area([[0.0, 1.0], [1.0, 0.0]], reference=[1.0, 1.0])
    0.5

    Source: the areas between chords of `price_of_the_proxy`, of any points.
    """
    corner = _checked_reference(reference)
    cloud = _checked_points(points)
    return _area_beyond(_lower_hull(cloud[np.isfinite(cloud).all(axis=1)]), corner)


def price_of_the_proxy(
    task: Distribution,
    proxy: Distribution,
    original: Distribution,
    penalties: ArrayLike = PRICE_PENALTIES,
    reference: ArrayLike | None = None,
) -> float:
    """Area between the oracle's frontier and the proxy's, in (alignment gap, capability gap).

    What is lost, over all budgets at once, by training on D_ŝ rather than on D_s. Zero when the
    proxy is the original, never negative, in nats².

    Args:
        task, proxy, original: D_f, D_ŝ, D_s over the same contexts and responses.
        penalties: where both curves are computed; they are joined by chords.
        reference: the corner (alignment gap, capability gap) up to which area counts, by default
            (log V, log V), the largest gaps that a uniform model can have.

    Raises:
        ValueError: on a bad penalty or reference, or if the worlds differ in shape.

    >>> task = Distribution([1.0], [[1.0, 0.0, 0.0]])
    >>> original = Distribution([1.0], [[0.0, 1.0, 0.0]])
    >>> proxy = Distribution([1.0], [[0.0, 0.5, 0.5]])
    >>> price_of_the_proxy(task, original, original)
    0.0
    >>> round(price_of_the_proxy(task, proxy, original), 3)
    0.294

    Source: derived here.
    """
    log_responses = math.log(task.shape[1])
    corner = _checked_reference((log_responses, log_responses) if reference is None else reference)
    proxied = exact_frontier(task, proxy, original, np.sort(np.asarray(penalties, dtype=float)))
    ideal = oracle_frontier(task, original, proxied.penalties)
    curve = _finite(proxied.capability_gap, proxied.alignment_gap)
    front = _finite(ideal.capability_gap, ideal.alignment_gap)
    # A chord between two attainable points is attainable, both gaps being convex in the model, so
    # that the proxy's points may join the oracle's hull: the difference then cannot be negative.
    hull = _lower_hull(np.concatenate([front, curve]))
    price = _area_beyond(hull, corner[::-1]) - _area_beyond(curve, corner[::-1])
    return max(0.0, price)


def _checked_reference(reference: ArrayLike) -> Array:
    corner = np.asarray(reference, dtype=np.float64)
    if corner.shape != (2,) or not np.isfinite(corner).all():
        raise ValueError(
            f"reference is {reference!r}: give two finite numbers, one per coordinate."
        )
    return corner


def _checked_points(points: ArrayLike) -> Array:
    cloud: Array = np.asarray(points, dtype=np.float64)
    if cloud.ndim != 2 or cloud.shape[1] != 2:
        raise ValueError(f"points has shape {cloud.shape}: give one row of two numbers per point.")
    if not np.all(cloud > -np.inf):
        raise ValueError("points holds NaN or minus infinity: leave such points out.")
    return cloud


def _finite(first: Array, second: Array) -> Array:
    points = np.column_stack([first, second])
    rows: Array = points[np.isfinite(points).all(axis=1)]
    return rows


def _lower_hull(points: Array) -> Array:
    """The lower convex hull from left to right (Andrew's monotone chain)."""
    hull: list[Array] = []
    for point in points[np.lexsort((points[:, 1], points[:, 0]))]:
        while len(hull) > 1 and _turns_right(hull[-2], hull[-1], point):
            hull.pop()
        hull.append(point)
    return np.array(hull).reshape(-1, 2)


def _turns_right(a: Array, b: Array, c: Array) -> bool:
    return bool((b[0] - a[0]) * (c[1] - a[1]) <= (b[1] - a[1]) * (c[0] - a[0]))


def _area_beyond(curve: Array, corner: Array) -> float:
    """Area up to the corner that a polyline dominates, its first coordinate never falling."""
    right, top = corner.tolist()
    points = _up_to(curve, right)
    area, best = 0.0, top
    for (left, before), (reached, height) in pairwise(points):
        best = min(best, before)
        # The best height so far holds along the chord until the chord dips below it.
        share = (before - best) / (before - height) if height < best else 1.0
        flat = (reached - left) * share
        sloped = (reached - left) - flat
        area += flat * (top - best) + sloped * (top - 0.5 * (best + min(best, height)))
    return area


def _up_to(curve: Array, right: float) -> list[tuple[float, float]]:
    """The polyline ended at `right`: cut there, or continued level from its last point."""
    inside = [(x, y) for x, y in curve.tolist() if x <= right]
    if not inside:
        return []
    (x, y), end = inside[-1], inside[-1][1]
    if len(inside) < len(curve):
        beyond = curve[len(inside)]
        end = y + (float(beyond[1]) - y) * (right - x) / (float(beyond[0]) - x)
    return [*inside, (right, end)]
