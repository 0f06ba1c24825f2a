"""What each number of an audit is: its name in the theory, its unit, and which way it errs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Quantity:
    """A measured quantity: words, symbol, what the theory calls it, unit and error."""

    name: str
    symbol: str
    theory: str
    unit: str
    errs: str


QUANTITIES = {
    "total_variation": Quantity(
        "data similarity",
        "TV(Dₛ, D_ŝ)",
        "the shift in Theorem 1",
        "0 to 1",
        "too small: what one classifier told apart. Only the interval's low end bounds TV, at "
        "97.5 % confidence",
    ),
    "given_prompt": Quantity(
        "data similarity given the prompt",
        "E TV(Dₛ(·|x), D_ŝ(·|x))",
        "the shift in Theorem 1 with the contexts held fixed",
        "0 to 1",
        "too small, as above; over shared prompts alone",
    ),
    "excess_loss": Quantity(
        "excess loss of the proxy",
        "L_ŝ(θₛ) − Lₛ(θₛ)",
        "the shift |Lₛ − L_ŝ| of Theorem 1's proof, at θₛ",
        "nats per token",
        "either way: it bounds nothing, and a more predictable teacher has less",
    ),
    "by_words": Quantity(
        "data similarity by words",
        "TV(Dₛ, D_ŝ)",
        "the shift in Theorem 1",
        "0 to 1",
        "too small, as above",
    ),
    "task_on_safety": Quantity(
        "context overlap",
        "D_f(X_ŝ)",
        "the overlap o of Theorems 1 and 2",
        "share of task prompts",
        "mostly too large: what one classifier could not tell from safety prompts; too small by up "
        "to a twentieth where all overlaps",
    ),
    "safety_on_task": Quantity(
        "reverse context overlap",
        "D_ŝ(X_f)",
        "the reverse overlap ρ of Theorems 1 and 2",
        "share of safety prompts",
        "mostly too large, as above",
    ),
    "alignment_term": Quantity(
        "overlap term of the alignment gap",
        "E_ŝ log(1 + 1/(λ r(x)))",
        "the overlap term of Theorem 1 with no threshold, at λ = 1",
        "nats per response",
        "mostly too large: r is the density ratio by one classifier, calibrated",
    ),
    "capability_term": Quantity(
        "overlap term of the capability gap",
        "E_f log(1 + λ r(x))",
        "the overlap term of Theorem 2 with no threshold, at λ = 1",
        "nats per response",
        "mostly too large, as above",
    ),
    "slope": Quantity(
        "slope at θₛ",
        "g = ‖∇L(θₛ)‖",
        "g of Theorems 3 and 4",
        "nats per token per unit of distance",
        "too large: the noise of few rows adds to a gradient's length; with an adapter too small, "
        "as it is that of one draw of its directions, and a trained one turns to steeper ones",
    ),
    "curvature": Quantity(
        "curvature at θₛ",
        "H = ‖∇²L(θₛ)‖",
        "H of Theorems 3 and 4",
        "nats per token per square unit of distance",
        "too small away from θₛ: it is local",
    ),
    "cosine": Quantity(
        "agreement of the gradients",
        "cos(∇L_ŝ, ∇L_f)",
        "the sign of the first step's effect on safety",
        "−1 to 1",
        "towards 0 where rows are few",
    ),
    "rate": Quantity(
        "influence rate of a task row",
        "−⟨∇ℓᵢ, ∇L_ŝ(θ′)⟩ / ‖∇L_ŝ(θ′)‖",
        "first-order rise of the safety loss per step on the row",
        "nats per token per unit of distance",
        "either way: a first-order view at one trial step",
    ),
}
