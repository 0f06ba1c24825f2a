"""Facts about budgets: what is asked for is met on rows never seen, or the run says it is not."""

from __future__ import annotations

import math
from copy import deepcopy
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers.trainer_callback import PrinterCallback

from tests.train import tiny
from tests.watchers import Watcher
from trimtab import (
    AlignmentLossConstraint,
    AlignmentParameterConstraint,
    SafetyAwareSFTTrainer,
    UserError,
)
from trimtab.config.experiment import Block, Experiment, Measuring, Training
from trimtab.data.synthetic import CONTEXTS, RESPONSES, make_world, write_data
from trimtab.measure.losses import held_out_loss
from trimtab.models import quiet_libraries, save_tiny_llama
from trimtab.runner.runner import Runner
from trimtab.runner.sweep import read_roles
from trimtab.stats import Estimate
from trimtab.train.objectives.base import Objective
from trimtab.train.objectives.budget import (
    Budget,
    BudgetOutcome,
    ImpossibleBudgetError,
    RunningChange,
    gain_at,
)
from trimtab.train.objectives.paired_rows import PairedRows, distinct_rows, set_aside
from trimtab.train.objectives.scaling import scale_to_budget
from trimtab.train.trainer import STATE_FILE

STEPS = 60


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    quiet_libraries()
    folder = tmp_path_factory.mktemp("world")
    world = make_world({"near": 0.1}, {"shared": 1.0})
    original, safety, task = write_data(world, folder, rows=6000)
    save_tiny_llama([*CONTEXTS, *RESPONSES], folder / "base", seed=0)
    experiment = Experiment(
        model=str(folder / "base"),
        original=original,
        safety=safety,
        task=task,
        align=Training(steps=120, batch_size=64, learning_rate=2e-3),
        grid=(Block("alignment-loss", (1.0,)),),
        measure=Measuring(tokens_per_batch=16_384),
        data_root=str(folder),
    )
    return Runner(experiment, read_roles(experiment), folder, Watcher())


def trained(
    runner: Runner, constraint: Objective | None, folder: Path
) -> tuple[SafetyAwareSFTTrainer, float]:
    """A trained model of the world, and the exact change of its safety loss."""
    trainer = SafetyAwareSFTTrainer(
        deepcopy(runner.aligned),
        args=tiny.config(
            folder,
            per_device_train_batch_size=64,
            max_steps=STEPS,
            learning_rate=2e-3,
            lr_scheduler_type="linear",
            logging_steps=10,
            seed=0,
            safety_repeats=True,
            safety_share=0.2,
        ),
        train_dataset=runner.rows.task["shared"].train,
        safety_dataset=runner.rows.safety["near"].train,
        objective=constraint,
        processing_class=runner.tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    held_out, measuring = runner.rows.safety["near"].held_out, runner.experiment.measure
    after, before = (
        held_out_loss(model, held_out, measuring).per_token.value
        for model in (trainer.model, runner.aligned)
    )
    return trainer, after - before


@pytest.fixture(scope="module")
def plain_change(runner: Runner, tmp_path_factory: pytest.TempPathFactory) -> float:
    return trained(runner, None, tmp_path_factory.mktemp("plain"))[1]


@pytest.mark.parametrize(
    "constraint",
    [
        AlignmentLossConstraint(budget=0.1),
        AlignmentParameterConstraint(budget=0.2),
    ],
    ids=str,
)
def test_a_binding_budget_is_spent_and_not_overspent(
    constraint: Objective, runner: Runner, plain_change: float, tmp_path: Path
) -> None:
    trainer, change = trained(runner, constraint, tmp_path)
    assert isinstance(trainer.objective, Budget)
    outcome = trainer.objective.outcome
    assert outcome is not None
    assert outcome.verdict == "within"
    assert constraint.budget is not None
    # Validation rows are draws: the exact change is theirs to within their error.
    half_width = outcome.change.high - outcome.change.value
    assert change == pytest.approx(outcome.change.value, abs=1.5 * half_width)
    assert 0.85 * constraint.budget < change < 1.08 * constraint.budget
    assert plain_change > 1.2 * constraint.budget
    logged = trainer.state.log_history[-2]
    knob = "penalty" if isinstance(constraint, AlignmentLossConstraint) else "radius"
    assert {knob, "safety_change", "safety_change_error", "feasible"} <= set(logged)


def test_a_budget_beyond_plain_training_leaves_the_model_as_it_is(
    runner: Runner, plain_change: float, tmp_path: Path
) -> None:
    trainer, change = trained(runner, AlignmentParameterConstraint(budget=5.0), tmp_path)
    assert change == plain_change
    assert isinstance(trainer.objective, Budget)
    assert trainer.objective.outcome is not None
    assert trainer.objective.outcome.scale == 1.0


def test_a_smaller_budget_learns_a_larger_multiplier(runner: Runner, tmp_path: Path) -> None:
    learned = []
    for budget in (0.02, 0.3):
        trainer, _ = trained(runner, AlignmentLossConstraint(budget=budget), tmp_path)
        assert isinstance(trainer.objective, Budget)
        learned.append(trainer.objective.multiplier.value)
    assert learned[0] > 10 * learned[1]


def test_safety_out_of_reach_is_said_plainly(runner: Runner, tmp_path: Path) -> None:
    trainer, change = trained(runner, AlignmentLossConstraint(budget=-0.5), tmp_path)
    assert isinstance(trainer.objective, Budget)
    outcome = trainer.objective.outcome
    assert outcome is not None
    assert outcome.verdict != "within"
    assert outcome.penalty is not None
    assert outcome.penalty > 10  # all that there was to do was done
    assert min(change, outcome.change.value) > -0.1


def test_a_loss_below_zero_is_impossible(tmp_path: Path) -> None:
    with pytest.raises(ImpossibleBudgetError, match=r"no loss is below 0\. Give a budget above -3"):
        tiny.trained(AlignmentLossConstraint(budget=-10.0), tiny.config(tmp_path), tmp_path)


@pytest.mark.parametrize(
    ("change", "penalty", "verdict"),
    [
        (0.03, 1.0, "within"),
        (0.041, 1.0, "undecided"),
        (0.059, 150.0, "undecided"),
        (0.061, None, "beyond"),
        (0.2, 150.0, "beyond"),
    ],
)
def test_verdict_goes_by_the_interval(change: float, penalty: float | None, verdict: str) -> None:
    seen = Estimate(change, change - 0.01, change + 0.01, "nats", "estimate")
    outcome = BudgetOutcome(0.05, penalty, 1.0, 1.0, seen, None)
    assert outcome.verdict == verdict
    assert outcome.is_out_of_reach == (penalty == 150.0)


def test_a_checkpoint_without_a_budget_is_refused(tmp_path: Path) -> None:
    saving = tiny.config(tmp_path / "run", save_strategy="steps", save_steps=2)
    tiny.trained(AlignmentLossConstraint(0.5), saving, tmp_path)
    with pytest.raises(UserError, match="holds no multiplier"):
        tiny.trained(AlignmentLossConstraint(budget=0.05), saving, tmp_path, resume=True)


def test_budgets_out_of_range_are_refused() -> None:
    with pytest.raises(UserError, match="above 0"):
        AlignmentParameterConstraint(budget=0.0)
    with pytest.raises(UserError, match="number"):
        AlignmentLossConstraint(budget=math.nan)
    with pytest.raises(UserError, match="above 0"):
        AlignmentLossConstraint(penalty=0.0, budget=0.1)
    with pytest.raises(UserError, match="target='response'"):
        AlignmentLossConstraint(budget=0.1, target="kl")
    with pytest.raises(UserError, match="one"):
        AlignmentParameterConstraint(radius=1.0, budget=0.1)


def test_multiplier_is_in_the_checkpoint(tmp_path: Path) -> None:
    saving = tiny.config(tmp_path / "run", save_strategy="steps", save_steps=2, max_steps=4)
    trainer = tiny.trained(AlignmentLossConstraint(budget=0.05), saving, tmp_path)
    kept = torch.load(tmp_path / "run" / "checkpoint-4" / STATE_FILE, weights_only=True)
    assert isinstance(trainer.objective, Budget)
    assert kept["multiplier"]["value"] == trainer.objective.multiplier.value != 1.0
    assert 0 < kept["extra_tokens"] <= trainer.objective.extra_tokens
    assert (tmp_path / "run" / "checkpoint-4" / "trainer_state.json").exists()


def test_a_large_multiplier_does_not_lengthen_the_gradient(tmp_path: Path) -> None:
    each = tiny.config(tmp_path / "run", logging_steps=1, max_steps=4)
    trainer = tiny.trained(AlignmentLossConstraint(50.0, budget=0.05), each, tmp_path)
    steps = [record for record in trainer.state.log_history if "safety_loss" in record]
    assert len(steps) == 4
    for before, step in pairwise(steps):
        penalty = before["penalty"]  # what is logged is the λ of the coming step
        whole = step["task_loss"] + penalty * step["safety_loss"]
        assert step["loss"] == pytest.approx(whole / (1 + penalty), rel=1e-4)


def test_validation_rows_are_never_trained_on() -> None:
    rows = tiny.rows(200, seed=5)
    train, validation = set_aside(rows, limit=30, drawn=1000, seed=0)

    def texts(some: Dataset) -> set[tuple[int, ...]]:
        return {tuple(ids) for ids in some["input_ids"]}

    assert (len(train), len(validation)) == (170, 30)
    distinct = texts(rows)
    assert len(distinct) == 200  # so that no text is in both by chance
    assert not texts(train) & texts(validation)


def test_rows_that_a_short_run_would_not_read_are_validated_on() -> None:
    train, validation = set_aside(tiny.rows(200, seed=5), limit=500, drawn=40, seed=0)
    assert (len(train), len(validation)) == (40, 160)


def test_a_prompt_is_not_both_trained_and_validated_on() -> None:
    prompts = [[3 + number // 3, 4] for number in range(60)]
    rows = Dataset.from_list(
        [
            {"input_ids": [*prompt, 5 + number % 7], "labels": [-100, -100, 5 + number % 7]}
            for number, prompt in enumerate(prompts)
        ]
    )

    def asked(some: Dataset) -> set[int]:
        return {ids[0] for ids in some["input_ids"]}

    train, validation = set_aside(rows, limit=500, drawn=1000, seed=0)
    assert (len(train), len(validation)) == (48, 12)
    assert not asked(train) & asked(validation)
    train, validation = set_aside(rows, limit=500, drawn=1000, seed=0, repeats=True)
    assert (len(train), len(validation)) == (48, 12)
    assert asked(train) & asked(validation)


def test_a_prompt_of_many_rows_is_not_taken_for_validation() -> None:
    prompts = [0] * 90 + list(range(1, 31))
    rows = Dataset.from_list(
        [
            {"input_ids": [3 + prompt, 40 + number], "labels": [-100, 40 + number]}
            for number, prompt in enumerate(prompts)
        ]
    )
    for seed in range(5):
        train, validation = set_aside(rows, limit=500, drawn=1000, seed=seed)
        assert (len(train), len(validation)) == (96, 24)
        assert len(set_aside(rows, limit=10, drawn=1000, seed=seed)[1]) == 10
    many = rows.select(range(90)).map(lambda row: {"input_ids": [3 + row["input_ids"][1] % 2, 9]})
    assert len(set_aside(many, limit=5, drawn=1000, seed=0)[1]) == 45


def test_rows_of_one_prompt_cannot_be_divided() -> None:
    rows = Dataset.from_list([{"input_ids": [3, 4], "labels": [-100, 4]}] * 10)
    with pytest.raises(UserError, match="all 10 safety rows have one prompt"):
        set_aside(rows, limit=500, drawn=1000, seed=0)
    whole_text = Dataset.from_list([{"input_ids": [3, 4], "labels": [3, 4]}] * 10)
    assert len(set_aside(whole_text, limit=500, drawn=1000, seed=0)[1]) == 2


def test_a_repeated_row_is_measured_once_and_counted_as_often() -> None:
    rows = tiny.rows(6, seed=5).select([0, 1, 0, 2, 1, 0])
    distinct, which = distinct_rows(rows)
    assert len(distinct) == 3
    assert which.tolist() == [0, 1, 0, 2, 1, 0]


def test_the_error_of_a_paired_change_is_that_of_the_difference() -> None:
    generator = np.random.default_rng(0)
    aligned, tokens = generator.gamma(4.0, 5.0, 400), generator.integers(5, 20, 400).astype(float)
    lost = generator.normal(0.1, 0.02, 400) * tokens
    paired = PairedRows(tiny.rows(1, seed=1), np.ones(400), aligned, tokens)
    change = paired.change(aligned + lost).estimate("nats per token")
    assert change.value == pytest.approx(lost.sum() / tokens.sum())
    resampled = generator.integers(400, size=(2000, 400))
    bootstrap = lost[resampled].sum(axis=1) / tokens[resampled].sum(axis=1)
    half_width = (change.high - change.low) / 2
    assert half_width == pytest.approx(1.966 * bootstrap.std(), rel=0.1)


@pytest.mark.parametrize("steps", [2, 8, 9, 100, 5000])
def test_the_gain_rises_from_nothing_falls_to_nothing_and_adds_up(steps: int) -> None:
    gains = [gain_at((step + 0.5) / steps, steps) for step in range(steps)]
    assert sum(gains) == pytest.approx(min(4.0, 0.5 * steps), rel=0.15)
    assert gains == pytest.approx(gains[::-1])
    assert gain_at(0.0, steps) == gain_at(1.0, steps) == 0.0
    assert max(gains) == pytest.approx(gain_at(0.5, steps), rel=0.3)


def test_running_change_knows_its_noise() -> None:
    generator = np.random.default_rng(0)
    ends = []
    for _ in range(300):
        running = RunningChange()
        for change in generator.normal(0.3, 0.1, 80):
            running.observe(change)
        ends.append((running.mean, running.standard_error))
    means, errors = np.array(ends).T
    assert means.mean() == pytest.approx(0.3, abs=0.01)
    assert errors.mean() == pytest.approx(means.std(), rel=0.2)


@pytest.mark.parametrize("order", [1.0, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("end", [0.04, 0.06, 0.3, 2.0])
def test_scaling_meets_the_budget_along_any_power(order: float, end: float) -> None:
    scale, change = scale_to_budget(lambda a: Estimate.exact(end * a**order, "nats"), 0.05)
    assert change.value <= 0.05 * 1.01
    assert change.value >= 0.05 * 0.99 or scale == 1.0


def test_scaling_leaves_alone_what_keeps_its_budget_and_what_it_cannot_mend() -> None:
    looked: list[float] = []

    def change_at(scale: float) -> Estimate:
        looked.append(scale)
        return Estimate.exact(0.04 * scale, "nats")

    assert scale_to_budget(change_at, 0.05)[0] == 1.0
    assert scale_to_budget(change_at, -0.05)[0] == 1.0
    assert looked == [1.0, 1.0]
