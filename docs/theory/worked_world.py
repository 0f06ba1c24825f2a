"""The worked world of docs/theory.md: its numbers, and the tables that show them.

    python docs/theory/worked_world.py

Writes docs/theory/worked_world.json, and from it the part of docs/theory.md between the markers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from trimtab.report.markdown import replace_between
from trimtab.theory import (
    Distribution,
    SoftmaxModel,
    capability_bound,
    capability_limit,
    context_conflict,
    context_overlap,
    exact_frontier,
    exact_penalty_for_budget,
    gap,
    penalty_for_budget,
    penalty_radius,
    price_of_the_proxy,
    safety_bound,
    theorem_3,
    theorem_4,
    total_variation,
)

FOLDER = Path(__file__).resolve().parent
NUMBERS, PAGE = FOLDER / "worked_world.json", FOLDER.parent / "theory.md"
MARK = "worked world"

# Contexts: locks, doses, bread, chess. Responses: decline, half an answer, answer.
ORIGINAL = Distribution(
    np.array([0.5, 0.5, 0.0, 0.0]),
    np.array([[0.90, 0.08, 0.02], [0.80, 0.15, 0.05], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]),
)
PROXY = Distribution(
    np.array([0.5, 0.5, 0.0, 0.0]),
    np.array([[0.85, 0.12, 0.03], [0.75, 0.17, 0.08], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]),
)
TASK = Distribution(
    np.array([0.2, 0.1, 0.4, 0.3]),
    np.array([[0.10, 0.30, 0.60], [0.20, 0.30, 0.50], [0.05, 0.15, 0.80], [0.10, 0.20, 0.70]]),
)
# The aligned model declines as D_s does, four times in five, and knows nothing of bread and chess.
ALIGNED = 0.8 * np.where(ORIGINAL.support[:, None], ORIGINAL.responses, 1 / 3) + 0.2 / 3

PENALTIES = (0.0, 0.01, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0, math.inf)
RADII = (0.1, 0.3, 1.0, 2.0, 3.0)
PARAMETER_PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0)
BUDGET = 0.4
Numbers = dict[str, Any]


def main() -> None:
    """Compute, write the numbers, and show them in the page."""
    numbers = compute()
    NUMBERS.write_text(json.dumps(numbers, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    replace_between(PAGE, MARK, render(numbers))
    print(f"wrote {NUMBERS.name} and the tables of {PAGE.name}")


def compute() -> Numbers:
    """Every number of the worked world, gaps and losses in nats per response."""
    return {
        "distances": _distances(),
        "case_1": [_case_1(penalty) for penalty in PENALTIES],
        "budget": _budget(),
        "price_of_the_proxy": _digits(price_of_the_proxy(TASK, PROXY, ORIGINAL)),
        "case_2_constants": {name: _digits(value) for name, value in _constants().items()},
        "case_2_ball": [_case_2("radius", radius) for radius in RADII],
        "case_2_penalty": [_case_2("penalty", penalty) for penalty in PARAMETER_PENALTIES],
    }


def render(numbers: Numbers) -> str:
    """The tables, as Markdown."""
    case_2 = ["$G_s$", "Thm 3", "classical", "$G_f$", "Thm 4", "classical"]
    parts = [
        "The world, in nats per response where it is a loss:",
        _listing(DISTANCES, numbers["distances"]),
        "Case I, the exact optimum beside the bounds, in nats per response:",
        _table(CASE_1, numbers["case_1"]),
        "The price of the proxy in nats², and the penalty for a budget:",
        _listing(BUDGETS, {**numbers["budget"], "price": numbers["price_of_the_proxy"]}),
        "Case II, the constants at the aligned model:",
        _listing(CONSTANTS, numbers["case_2_constants"]),
        "Case II, the exact optimum in a ball beside the bounds, in nats per response:",
        _table([r"radius $\varepsilon$", *case_2], numbers["case_2_ball"]),
        "Case II, the exact optimum under a penalty beside the bounds, in nats per response:",
        _table([r"penalty $\lambda$", *case_2], numbers["case_2_penalty"]),
    ]
    return "\n" + "\n\n".join(parts) + "\n\n"


DISTANCES = {
    "entropy_original": "$L^*_s$",
    "entropy_proxy": r"$L^*_{\hat s}$",
    "entropy_task": "$L^*_f$",
    "total_variation": r"$\mathrm{TV}(D_s, D_{\hat s})$",
    "overlap": "overlap $o$",
    "reverse_overlap": r"reverse overlap $\rho$",
    "conflict": "conflict $o_c$",
    "reverse_conflict": r"reverse conflict $\rho_c$",
}
CASE_1 = [
    r"$\lambda$",
    "$G_s$",
    "Thm 1",
    "classical",
    r"$G_{\hat s}$",
    "$G_f$",
    "Thm 2",
    "classical",
    "oracle's $G_f$ at this $G_s$",
]
BUDGETS = {
    "budget": "budget for $G_s$",
    "exact_penalty": r"smallest $\lambda$, exact",
    "shift": r"largest shift term over all $\lambda$",
    "theorem_1_penalty": r"$\lambda$ that Thm 1 asks for",
    "price": "price of the proxy",
}
CONSTANTS = {
    "alignment_gap_at_start": r"$G_s(\theta_s)$",
    "original_gradient_norm": "$g_s$",
    "original_smoothness": "$H_s$",
    "original_lipschitz": "$K_s$",
    "capability_gap_at_start": r"$G_f(\theta_s)$",
    "task_gradient_norm": "$g_f$",
    "task_smoothness": "$H_f$",
    "distance_to_minimiser": r"$\lVert \theta_f - \theta_s \rVert$",
}


def _distances() -> Numbers:
    values = {
        "entropy_original": ORIGINAL.entropy,
        "entropy_proxy": PROXY.entropy,
        "entropy_task": TASK.entropy,
        "total_variation": total_variation(ORIGINAL, PROXY),
        "overlap": context_overlap(TASK, PROXY),
        "reverse_overlap": context_overlap(PROXY, TASK),
        "conflict": context_conflict(TASK, PROXY),
        "reverse_conflict": context_conflict(PROXY, TASK),
    }
    return {name: _digits(value) for name, value in values.items()}


def _case_1(penalty: float) -> Numbers:
    frontier = exact_frontier(TASK, PROXY, ORIGINAL, [penalty])
    alignment_gap = float(frontier.alignment_gap[0])
    first, first_classical = (
        safety_bound(TASK, PROXY, ORIGINAL, penalty, sharp=sharp).value for sharp in (True, False)
    )
    second, second_classical = (
        capability_bound(TASK, PROXY, penalty, sharp=sharp).value for sharp in (True, False)
    )
    return _row(
        penalty=penalty,
        alignment_gap=alignment_gap,
        theorem_1=first,
        theorem_1_classical=first_classical,
        proxy_gap=float(frontier.proxy_gap[0]),
        capability_gap=float(frontier.capability_gap[0]),
        theorem_2=second,
        theorem_2_classical=second_classical,
        oracle_capability_gap=capability_limit(TASK, ORIGINAL, alignment_gap),
    )


def _budget() -> Numbers:
    # P_0 gives the original's responses the least: its shift term is the largest of all penalties.
    shift = safety_bound(TASK, PROXY, ORIGINAL, 0.0).term("shift").value
    penalty = penalty_for_budget(
        BUDGET,
        shift=shift,
        overlap=context_conflict(TASK, PROXY),
        reverse_overlap=context_conflict(PROXY, TASK),
    )
    return _row(
        budget=BUDGET,
        shift=shift,
        exact_penalty=exact_penalty_for_budget(TASK, PROXY, ORIGINAL, BUDGET),
        theorem_1_penalty=penalty,
    )


MODEL = SoftmaxModel(np.eye(4))
START = np.log(ALIGNED)


def _constants() -> dict[str, float]:
    def norm(array: np.ndarray) -> float:
        return float(np.linalg.norm(array))

    # Adding a constant to a row changes no probability: this minimiser is the nearest.
    step = np.log(TASK.responses) - START
    step -= step.mean(axis=1, keepdims=True)
    return {
        "alignment_gap_at_start": gap(ORIGINAL, MODEL.probabilities(START)),
        "original_gradient_norm": norm(MODEL.gradient(ORIGINAL, START)),
        "original_smoothness": MODEL.smoothness(ORIGINAL),
        "original_lipschitz": MODEL.lipschitz(ORIGINAL),
        "capability_gap_at_start": gap(TASK, MODEL.probabilities(START)),
        "task_gradient_norm": norm(MODEL.gradient(TASK, START)),
        "task_smoothness": MODEL.smoothness(TASK),
        "distance_to_minimiser": norm(step),
    }


def _case_2(constraint: Literal["radius", "penalty"], size: float) -> Numbers:
    constants = _constants()
    knob: dict[str, float] = {constraint: size}
    solve = MODEL.ball_solution if constraint == "radius" else MODEL.penalty_solution
    weights = solve(TASK, START, size)
    solution = MODEL.probabilities(weights)

    def third(sharp: bool) -> float:
        task_gap, slope = constants["capability_gap_at_start"], constants["task_gradient_norm"]
        reach = {**knob, "task_gap_at_start": task_gap}
        if sharp and constraint == "penalty":
            radius = penalty_radius(size, gap_at_start=task_gap, gradient_norm=slope, convex=True)
            reach = {"radius": radius}
        return theorem_3(
            gap_at_start=constants["alignment_gap_at_start"],
            gradient_norm=constants["original_gradient_norm"],
            smoothness=constants["original_smoothness"],
            lipschitz=constants["original_lipschitz"],
            sharp=sharp,
            **reach,
        ).value

    def fourth(sharp: bool) -> float:
        chord = sharp and constraint == "radius"
        return theorem_4(
            gap_at_start=constants["capability_gap_at_start"],
            gradient_norm=constants["task_gradient_norm"],
            smoothness=constants["task_smoothness"],
            distance_to_minimiser=constants["distance_to_minimiser"] if chord else None,
            sharp=sharp,
            **knob,
        ).value

    return _row(
        **knob,
        alignment_gap=gap(ORIGINAL, solution),
        theorem_3=third(True),
        theorem_3_classical=third(False),
        capability_gap=gap(TASK, solution),
        theorem_4=fourth(True),
        theorem_4_classical=fourth(False),
    )


def _row(**values: float) -> Numbers:
    return {name: _digits(value) for name, value in values.items()}


def _digits(value: float) -> float | str:
    """Eight digits after the point; infinity, which JSON lacks, as a word."""
    return round(value, 8) if math.isfinite(value) else "inf"


def _listing(symbols: dict[str, str], values: Numbers) -> str:
    lines = ["| quantity | value |", "|---|---:|"]
    lines += [f"| {symbol} | {_cell(values[name], '.4f')} |" for name, symbol in symbols.items()]
    return "\n".join(lines)


def _table(header: list[str], rows: Iterable[Numbers]) -> str:
    lines = [f"| {' | '.join(header)} |", f"|{'---:|' * len(header)}"]
    for row in rows:
        knob, *values = row.values()
        cells = [_cell(knob, "g"), *(_cell(value, ".4f") for value in values)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(value: float | str, form: str) -> str:
    return "∞" if value == "inf" else format(value, form)


if __name__ == "__main__":
    main()
