"""Which training should a safety budget rest on? Every one is set by the same rule.

    python benchmarks/one_rule.py                  # worlds that nothing was chosen by, run once
    python benchmarks/one_rule.py --seeds 0        # a world to look at while writing this
    python benchmarks/one_rule.py --docs           # the table of docs/budget.md from what is kept

Whatever was trained, a budget b is met along a path of models that ends at θ_s or near it: a dial's
settings, or θ_s + a(θ − θ_s) for a from 0 to 1. On n validation rows the rule takes the most
capable setting at which the 95 % interval of the change of L_ŝ is within b, by bisection. So the
methods differ in what they train, and in nothing else:

- the controller, which learns λ (Case I) or ε (Case II) in a run of its own for each budget;
- the dial, one run for all budgets;
- Case I at a fixed λ, and plain fine-tuning (WiSE-FT), one run for all budgets.

Held-out losses are exact in a built-in world. So P(beyond b) and the mean of L_f are taken over
redraws of the n rows, the same redraws for every method.

Endpoint, as stated before any of these worlds was run: the difference in L_f between "dial, then
set" and the controller at each budget, on 256 validation rows and at no more tokens than the
controller's; Student's interval over worlds, Holm's p over budgets and cases. Added after two
worlds, as one method has to serve all budgets: the ratio of the two, averaged over the budgets.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from learned_constraints import Controller, DualAscent, RadiusController, RelaxedBarrier
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from scipy import stats as scipy_stats
from torch import nn

from trimtab.analysis.labels import change_in_words, p_in_words
from trimtab.config.experiment import Block, Dial, Experiment, Measuring, Training
from trimtab.config.methods import CASE_1
from trimtab.config.methods import DIAL as DIAL_METHOD
from trimtab.config.run_spec import RunSpec
from trimtab.data.splits import read_roles
from trimtab.data.synthetic import CONTEXTS, RESPONSES, make_world, write_data
from trimtab.measure.losses import HeldOutRows, response_nll
from trimtab.models import quiet_libraries, save_tiny_llama
from trimtab.report.markdown import markdown_table, replace_between
from trimtab.results.files import write_atomically
from trimtab.runner.evaluator import Trained
from trimtab.runner.runner import Runner
from trimtab.runner.sweep import SilentWatcher
from trimtab.runner.trainings import Job
from trimtab.stats import Array, front, holm, student_mean, student_p_value
from trimtab.train.objectives.base import Objective
from trimtab.train.settings import objective_of

RESULTS = Path(__file__).parent / "results" / "one_rule.json"
PAGE = Path(__file__).parent.parent / "docs" / "budget.md"
MARK = "one rule"

UNSEEN = (20, 21, 22, 23, 24, 25)
LOOKED_AT = 2
"""After so many of these worlds the ratio over budgets was added to the endpoint."""
BUDGETS = (0.03, 0.05, 0.1, 0.2)
PENALTIES = (0.0, 0.05, 0.1, 0.2, 0.35, 0.6, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 9.0, 14.0)
"""Of the sweep that the best feasible point is taken from."""
FIXED = (0.03, 0.1, 0.3, 1.0, 3.0)
ROWS = (256, 2000)
REDRAWS = 400
HALVINGS = 6
LOOKS = HALVINGS + 1
FEWEST_LOOKS = 1
SETTINGS = 2**HALVINGS

DIAL, WISE = "dial, then set", "plain, then scaled (WiSE-FT)"
CONTROLLERS: dict[str, Callable[[float], Objective]] = {
    "controller, λ": Controller,
    "controller, ε": RadiusController,
}
"""Learned in a run for each budget."""
OTHERS: dict[str, Callable[[float], Objective]] = {
    "dual ascent, λ": DualAscent,
    "relaxed barrier (L3M)": RelaxedBarrier,
}
"""Of other papers, given L_ŝ(θ_s) + b; in the first world alone."""
KINDS = {"all weights": None, "LoRA": 8}
"""And the rank of the adapter."""


@dataclass(frozen=True)
class PathOfModels:
    """Models from the safest, setting 0, to the most capable.

    `safety_nll` has shape (settings, rows), in nats, of rows that enumerate a world with `weights`.
    """

    safety_nll: Array
    task_loss: Array
    tokens: int


class World:
    """One world, its aligned model, and the paths that trainings from there make."""

    def __init__(self, seed: int, rank: int | None) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.experiment = adapted(world_experiment(self.folder, seed), rank)
        roles = read_roles(self.experiment)
        self.runner = Runner(self.experiment, roles, self.folder, SilentWatcher())
        (self.proxy,), (self.task,) = self.experiment.safety, self.experiment.task
        self.seed = seed
        self.safety_rows = self.runner.rows.safety[self.proxy].held_out
        self.task_rows = self.runner.rows.task[self.task].held_out
        assert self.safety_rows.weights is not None
        self.weights = self.safety_rows.weights / self.safety_rows.weights.sum()
        self.start_nll, self.row_tokens = self._nll(self.runner.aligned, self.safety_rows)
        self.start_task_loss = self._loss(self.runner.aligned, self.task_rows)

    def trained(self, penalty: float, objective: Objective | None = None) -> Trained:
        """One run of the experiment's steps of Case I, or by another objective."""
        spec = RunSpec(CASE_1, penalty, self.proxy, self.task, self.seed)
        objective = objective or objective_of(spec, self.experiment)
        proxy = self.proxy if objective else None
        job = Job(spec.folder, self.task, self.experiment.train, self.seed, proxy, objective)
        return self.runner.train(job)

    def scalings(self, trained: Trained) -> PathOfModels:
        """θ_s + a(θ − θ_s)."""
        move = scaler(trained.model, self.runner.aligned)

        def at(share: float) -> nn.Module:
            move(share)
            return trained.model

        return self._path(at, trained.train_tokens)

    def settings(self, steps: int) -> PathOfModels:
        """A dial's."""
        training = replace(self.experiment.train, steps=steps)
        self.runner.experiment = replace(self.experiment, train=training)
        spec = RunSpec(DIAL_METHOD, None, self.proxy, self.task, self.seed)
        dial = self.runner.trained_dial(spec)
        self.runner.experiment = self.experiment

        def at(alpha: float) -> nn.Module:
            dial.endpoints.set_alpha(alpha)
            return dial.endpoints.model

        return self._path(at, dial.train_tokens)

    def point(self, trained: Trained) -> tuple[float, float]:
        """(change of L_ŝ, L_f) of a model, exact."""
        safety, _ = self._nll(trained.model, self.safety_rows)
        length = self.weights @ self.row_tokens
        change = self.weights @ (safety - self.start_nll) / length
        return float(change), self._loss(trained.model, self.task_rows)

    def _path(self, at: Callable[[float], nn.Module], tokens: int) -> PathOfModels:
        safety, task = [], []
        for place in range(SETTINGS + 1):
            model = at(place / SETTINGS)
            safety.append(self._nll(model, self.safety_rows)[0])
            task.append(self._loss(model, self.task_rows))
        return PathOfModels(np.array(safety), np.array(task), tokens)

    def _nll(self, model: nn.Module, rows: HeldOutRows) -> tuple[Array, Array]:
        return response_nll(model, rows.rows, self.experiment.measure.tokens_per_batch)

    def _loss(self, model: nn.Module, rows: HeldOutRows) -> float:
        nll, tokens = self._nll(model, rows)
        assert rows.weights is not None
        return float(rows.weights @ nll / (rows.weights @ tokens))


def world_experiment(folder: Path, seed: int) -> Experiment:
    """200 steps of 64 task rows and 7 safety rows, from 20,000 draws of each."""
    world = make_world({"near": 0.1}, {"shared": 1.0}, seed)
    original, safety, task = write_data(world, folder, rows=20_000, seed=seed)
    save_tiny_llama([*CONTEXTS, *RESPONSES], folder / "base", seed)
    return Experiment(
        model=str(folder / "base"),
        original=original,
        safety=safety,
        task=task,
        align=Training(steps=200, batch_size=64, learning_rate=2e-3),
        train=Training(steps=200, batch_size=64, learning_rate=2e-3, safety_share=0.1),
        grid=(Block("alignment-loss", PENALTIES),),
        seeds=(seed,),
        measure=Measuring(tokens_per_batch=16_384),
        data_root=str(folder),
    )


def adapted(experiment: Experiment, rank: int | None) -> Experiment:
    """With a dial, and with LoRA where there is a rank."""
    if rank is None:
        return replace(experiment, dial=Dial())
    training = replace(experiment.train, lora_rank=rank, learning_rate=1e-2)
    return replace(experiment, dial=Dial(), train=training)


def scaler(model: nn.Module, aligned: nn.Module) -> Callable[[float], None]:
    """What sets a model to θ_s + a(θ − θ_s), of θ as it is now; an adapter is only rescaled."""
    if isinstance(model, PeftModel):
        layers = [layer for layer in model.modules() if isinstance(layer, LoraLayer)]

        def rescale(share: float) -> None:
            for layer in layers:
                layer.set_scale("default", share)

        return rescale
    ends = {name: weight.detach().clone() for name, weight in model.named_parameters()}

    @torch.no_grad()
    def move(share: float) -> None:
        for name, weight in model.named_parameters():
            torch.lerp(aligned.get_parameter(name), ends[name], share, out=weight)

    return move


@dataclass(frozen=True)
class Told:
    """What the rule makes of a path, over redraws of the validation rows."""

    task_loss: float
    spent: float
    """The mean change of L_ŝ over the budget."""
    beyond: float
    """The share of redraws at which the change is beyond the budget."""
    tokens: float
    """Trained on, and read to find the setting."""


def rule_outcome(world: World, path: PathOfModels, budget: float, rows: int) -> Told:
    """The rule, at as many redraws of `rows` validation rows; the same ones for every path."""
    random = np.random.default_rng(world.seed)
    change = (path.safety_nll - world.start_nll) @ world.weights
    change /= world.weights @ world.row_tokens
    chosen = np.array(
        [
            bisected(path, world, random.multinomial(rows, world.weights).astype(float), budget)
            for _ in range(REDRAWS)
        ]
    )
    length = len_of_rows(world)
    return Told(
        float(path.task_loss[chosen].mean()),
        float(change[chosen].mean() / budget),
        float((change[chosen] > budget).mean()),
        path.tokens + LOOKS * rows * length,
    )


def len_of_rows(world: World) -> float:
    """Mean tokens of a safety row, prompt included."""
    return float(world.weights @ [len(ids) for ids in world.safety_rows.rows["input_ids"]])


def bisected(path: PathOfModels, world: World, counts: Array, budget: float) -> int:
    """The most capable setting found within the budget; 0 where none is."""
    limits = upper_limits(
        path.safety_nll - world.start_nll, world.row_tokens, counts
    )  # of all settings at once; the search reads seven of them
    if limits[-1] <= budget:
        return len(limits) - 1
    low, high = 0, len(limits) - 1
    for _ in range(HALVINGS):
        middle = (low + high) // 2
        if limits[middle] <= budget:
            low = middle
        else:
            high = middle
    return low


def upper_limits(difference: Array, tokens: Array, counts: Array) -> Array:
    """Upper ends of the paired 95 % intervals of rows that come `counts` times: (settings,).

    As `trimtab.stats.paired_difference` has it, of all settings at once; a test compares the two.
    """
    rows = counts.sum()
    length = counts @ tokens / rows
    value = difference @ counts / (rows * length)
    deviation = difference - value[:, None] * tokens
    variance = (deviation**2 @ counts - (deviation @ counts) ** 2 / rows) / (rows - 1)
    width = scipy_stats.t.ppf(0.975, rows - 1) * np.sqrt(variance / rows) / length
    return value + width


def measured(seed: int, rank: int | None) -> dict[str, Any]:
    """Every method in one world: by budget and rows, what the rule makes of its path."""
    world = World(seed, rank)
    record: dict[str, Any] = {
        "start": world.start_task_loss,
        "sweep": [world.point(world.trained(penalty)) for penalty in PENALTIES],
        "told": [],
    }

    def add_outcomes(method: str, path: PathOfModels, budgets: Sequence[float]) -> None:
        for budget in budgets:
            for rows in ROWS:
                outcome = rule_outcome(world, path, budget, rows)
                key = {"method": method, "budget": budget, "rows": rows}
                record["told"].append({**key, **vars(outcome)})

    plain = world.scalings(world.trained(0.0))
    add_outcomes(WISE, plain, BUDGETS)
    spent_tokens = []
    for method, controller in CONTROLLERS.items():
        for budget in BUDGETS:
            path = world.scalings(world.trained(1.0, controller(budget)))
            spent_tokens.append(path.tokens + FEWEST_LOOKS * ROWS[0] * len_of_rows(world))
            # Of its looks the fewest are counted that a power law along its path took.
            saved = (LOOKS - FEWEST_LOOKS) * ROWS[0] * len_of_rows(world)
            add_outcomes(method, replace(path, tokens=path.tokens - round(saved)), [budget])
    for penalty in FIXED:
        path = world.scalings(world.trained(penalty))
        add_outcomes(f"λ = {penalty:g}, then scaled", path, BUDGETS)
    if seed == UNSEEN[0]:
        length = world.weights @ world.row_tokens
        start = float(world.weights @ world.start_nll / length)
        for method, kind in OTHERS.items():
            for budget in BUDGETS:
                trained = world.trained(1.0, kind(start + budget))
                add_outcomes(method, world.scalings(trained), [budget])
    steps = steps_of_dial(world, min(spent_tokens))
    add_outcomes(DIAL, world.settings(steps), BUDGETS)
    record["plain_tokens"] = plain.tokens
    record["dial_steps"] = steps
    return record


def steps_of_dial(world: World, tokens: float) -> int:
    """How many steps leave room for the looks, within the controller's tokens."""
    training: Training = world.experiment.train
    task_rows = training.batch_size
    safety_rows = round(task_rows * training.safety_share / (1 - training.safety_share))
    tokens_left = tokens - LOOKS * ROWS[0] * len_of_rows(world)
    return int(tokens_left / ((task_rows + safety_rows) * len_of_rows(world)))


def tables(results: dict[str, Any]) -> str:
    """For each kind of weights: what every method comes to, and the stated comparison."""
    lines: list[str] = []
    for kind in KINDS:
        worlds = [record for name, record in results.items() if name.startswith(f"{kind}, ")]
        if not worlds:
            continue
        lines += [f"**{kind}** ({len(worlds)} worlds)", "", of_methods(worlds), ""]
        if len(worlds) > 2:
            lines += [*compared(worlds), ""]
    return "\n".join(lines)


def cell(record: dict[str, Any], method: str, budget: float, rows: int) -> dict[str, Any]:
    return next(
        outcome
        for outcome in record["told"]
        if (outcome["method"], outcome["budget"], outcome["rows"]) == (method, budget, rows)
    )


def best_of_sweep(record: dict[str, Any], budget: float) -> float:
    """The least L_f among the sweep's models that truly keep the budget."""
    losses = [task for change, task in record["sweep"] if change <= budget]
    return min(losses, default=record["start"])


def finer_sweep(record: dict[str, Any], budget: float) -> float:
    """The same of a sweep with λ between: straight lines along the front of its models and θ_s.

    On a convex front they lie above it, which flatters whoever is set beside them.
    """
    places = np.array([(0.0, record["start"]), *record["sweep"]])
    changes, losses = places[front([tuple(place) for place in places.tolist()])].T
    return float(np.interp(budget, changes, losses))


def over_finer_sweep(worlds: Sequence[dict[str, Any]], count: int) -> str:
    """L_f of the dial over that of a finer sweep, by budget, on as many validation rows."""
    ratios = (
        np.mean(
            [
                cell(record, DIAL, budget, count)["task_loss"] / finer_sweep(record, budget)
                for record in worlds
            ]
        )
        for budget in BUDGETS
    )
    return f"{count:,} rows {' / '.join(f'{ratio:.3f}' for ratio in ratios)}"


def of_methods(worlds: Sequence[dict[str, Any]]) -> str:
    rows = []
    for method in dict.fromkeys(outcome["method"] for outcome in worlds[0]["told"]):
        records = [record for record in worlds if is_in(record, method)]
        for count in ROWS:
            outcomes = {
                (budget, place): cell(record, method, budget, count)
                for budget in BUDGETS
                for place, record in enumerate(records)
            }
            ratios = [
                np.mean(
                    [
                        outcomes[budget, place]["task_loss"] / best_of_sweep(record, budget)
                        for place, record in enumerate(records)
                    ]
                )
                for budget in BUDGETS
            ]
            tokens = [
                outcome["tokens"] / records[place]["plain_tokens"]
                for (_, place), outcome in outcomes.items()
            ]
            beyond = max(outcome["beyond"] for outcome in outcomes.values())
            spent = np.mean([outcome["spent"] for outcome in outcomes.values()])
            name = method if len(records) == len(worlds) else f"{method} (one world)"
            rows.append(
                (
                    name,
                    f"{count:,}",
                    f"{np.mean(tokens):.2f}×",
                    f"{100 * beyond:.1f} %",
                    f"{spent:.2f}",
                    *(f"{ratio:.3f}" for ratio in ratios),
                )
            )
    columns = [f"L_f at +{budget:g}" for budget in BUDGETS]
    return markdown_table(
        ("method", "rows", "tokens", "beyond, most", "spent, mean", *columns), rows
    )


def is_in(record: dict[str, Any], method: str) -> bool:
    """Whether a method was made in a world: those of other papers are in one alone."""
    return any(outcome["method"] == method for outcome in record["told"])


def in_all(worlds: Sequence[dict[str, Any]]) -> list[str]:
    methods = dict.fromkeys(outcome["method"] for outcome in worlds[0]["told"])
    return [method for method in methods if all(is_in(record, method) for record in worlds)]


def against(worlds: Sequence[dict[str, Any]], methods: Sequence[str]) -> str:
    """L_f of the dial less each method's, over worlds; Holm's p over budgets and these methods."""
    family = [(method, budget) for method in methods for budget in BUDGETS]
    differences = [
        [
            cell(record, DIAL, budget, ROWS[0])["task_loss"]
            - cell(record, method, budget, ROWS[0])["task_loss"]
            for record in worlds
        ]
        for method, budget in family
    ]
    adjusted = holm([student_p_value(values) for values in differences])
    cells: dict[str, list[str]] = {}
    for (method, _), values, p in zip(family, differences, adjusted, strict=True):
        mean = change_in_words(student_mean(values, "nats per token"), 4)
        cells.setdefault(method, []).append(f"{mean}, p {p_in_words(p)}")
    columns = [f"at +{budget:g}" for budget in BUDGETS]
    rows = [(method, *of_budgets) for method, of_budgets in cells.items()]
    return markdown_table(("the dial less", *columns), rows)


def dial_over(worlds: Sequence[dict[str, Any]], method: str) -> str:
    """L_f of the dial over a method's, averaged over the budgets."""
    ratios = [
        np.mean(
            [
                cell(record, DIAL, budget, ROWS[0])["task_loss"]
                / cell(record, method, budget, ROWS[0])["task_loss"]
                for budget in BUDGETS
            ]
        )
        for record in worlds
    ]
    mean = student_mean(ratios, "ratio")
    return f"{mean.value:.4f} [{mean.low:.4f}, {mean.high:.4f}]"


def compared(worlds: Sequence[dict[str, Any]]) -> list[str]:
    """The dial beside everything else, on as many rows."""
    others = [method for method in in_all(worlds) if method not in (DIAL, *CONTROLLERS)]
    later = worlds[LOOKED_AT:]
    spent = [
        f"{count:,} rows "
        + " / ".join(
            f"{np.mean([cell(record, DIAL, budget, count)['spent'] for record in worlds]):.2f}"
            for budget in BUDGETS
        )
        for count in ROWS
    ]
    unkept = {
        budget: sum(all(change > budget for change, _ in record["sweep"]) for record in worlds)
        for budget in BUDGETS
    }
    lines = [
        f"L_f of the dial less the others', {ROWS[0]} rows, with p adjusted over each table:",
        "",
        against(worlds, list(CONTROLLERS)),
        "",
        against(worlds, others),
        "",
        "L_f of the dial over the other's, averaged over the budgets:",
        "",
        *(f"- {method}: {dial_over(worlds, method)}" for method in [*CONTROLLERS, *others]),
        f"- controller, λ, in the {len(later)} worlds that were run after this ratio was added: "
        f"{dial_over(later, next(iter(CONTROLLERS)))}",
        "",
        f"Spent by the dial at {' / '.join(f'+{budget:g}' for budget in BUDGETS)}: "
        f"{'; '.join(spent)}.",
        "L_f of the dial there over that of a finer sweep, straight lines between its 14 models: "
        f"{'; '.join(over_finer_sweep(worlds, count) for count in ROWS)}.",
    ]
    for budget, count in unkept.items():
        if count:
            lines.append(
                f"At +{budget:g} no model of the sweep keeps to it in {count} of {len(worlds)} "
                "worlds, and θ_s stands for the best there."
            )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=UNSEEN)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--docs", action="store_true", help="only write the tables of the page")
    arguments = parser.parse_args()
    results = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    if arguments.docs:
        replace_between(PAGE, MARK, tables(results))
        return
    quiet_libraries()
    for seed in arguments.seeds:
        for kind in arguments.kinds:
            name = f"{kind}, world {seed}"
            if name not in results:
                print(name, flush=True)
                results[name] = measured(seed, KINDS[kind])
                write_atomically(arguments.out, json.dumps(results, indent=1) + "\n")
    print(tables(results))


if __name__ == "__main__":
    main()
