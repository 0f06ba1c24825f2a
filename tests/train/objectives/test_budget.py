"""Facts about budgets: what is asked for is met on rows never seen, or the run says it is not."""

from __future__ import annotations

import math
import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import PeftModel
from transformers import AutoModelForCausalLM
from transformers.trainer_callback import PrinterCallback

from tests.train import tiny
from tests.watchers import Watcher
from trimtab import Budget, SafetyAwareSFTTrainer, UserError
from trimtab.config.experiment import Block, Experiment, Measuring, Training
from trimtab.data.splits import read_roles
from trimtab.data.synthetic import CONTEXTS, RESPONSES, make_world, write_data
from trimtab.measure.losses import held_out_loss, response_nll
from trimtab.models import quiet_libraries, save_tiny_llama
from trimtab.runner.runner import Runner
from trimtab.stats import Estimate
from trimtab.train.context import context_of
from trimtab.train.objectives.base import Objective
from trimtab.train.objectives.budget import BudgetOutcome, ImpossibleBudgetError
from trimtab.train.objectives.paired_rows import PairedRows, distinct_rows, set_aside

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


def outcome_of(trainer: SafetyAwareSFTTrainer) -> BudgetOutcome:
    assert isinstance(trainer.objective, Budget)
    assert trainer.objective.outcome is not None
    return trainer.objective.outcome


@pytest.fixture(scope="module")
def plain_change(runner: Runner, tmp_path_factory: pytest.TempPathFactory) -> float:
    return trained(runner, None, tmp_path_factory.mktemp("plain"))[1]


def test_a_binding_budget_is_spent_and_not_overspent(
    runner: Runner, plain_change: float, tmp_path: Path
) -> None:
    budget = 0.15
    trainer, change = trained(runner, Budget(budget=budget), tmp_path)
    outcome = outcome_of(trainer)
    assert outcome.verdict == "within"
    # Validation rows are draws: the exact change is theirs to within their error.
    half_width = outcome.change.high - outcome.change.value
    assert change == pytest.approx(outcome.change.value, abs=1.5 * half_width)
    assert 0.5 * budget < change < 1.08 * budget
    assert plain_change > 1.2 * budget
    assert outcome.rows_wanted is not None


def test_a_budget_that_does_not_bind_leaves_the_dial_at_its_capable_end(
    runner: Runner, plain_change: float, tmp_path: Path
) -> None:
    trainer, change = trained(runner, Budget(budget=5.0), tmp_path)
    outcome = outcome_of(trainer)
    assert (outcome.alpha, outcome.rows_wanted) == (1.0, None)
    assert change == pytest.approx(plain_change, rel=0.5)


def test_a_smaller_budget_is_a_safer_setting(runner: Runner, tmp_path: Path) -> None:
    """One dial is set to both, and each is the model that a dial of its own would be."""
    budget = Budget(budget=0.3, keeps_ends=True)
    trainer, _ = trained(runner, budget, tmp_path)
    dial = trainer.objective
    assert isinstance(dial, Budget)
    row_nll = context_of(trainer).row_nll
    tight, loose = (dial.turned_to(budget, row_nll) for budget in (0.05, 0.3))
    assert tight.alpha < loose.alpha
    assert tight.penalty > loose.penalty
    assert tight.change.high <= 0.05
    alone, _ = trained(runner, Budget(budget=0.05), tmp_path)
    assert outcome_of(alone) == tight
    dial.turned_to(0.05, row_nll)
    for name, weight in alone.model.named_parameters():
        assert torch.equal(weight, trainer.model.get_parameter(name)), name


def test_safety_out_of_reach_is_said_plainly(runner: Runner, tmp_path: Path) -> None:
    trainer, change = trained(runner, Budget(budget=-0.5), tmp_path)
    outcome = outcome_of(trainer)
    assert outcome.verdict == "beyond"
    assert (outcome.alpha, outcome.penalty) == (0.0, 100.0)  # all that there was to do was done
    assert change > -0.1


def test_a_loss_below_zero_is_impossible(tmp_path: Path) -> None:
    with pytest.raises(ImpossibleBudgetError, match=r"no loss is below 0\. Give a budget above -3"):
        tiny.trained(Budget(budget=-10.0), tiny.config(tmp_path), tmp_path)


@pytest.mark.parametrize(
    ("change", "verdict"), [(0.03, "within"), (0.041, "undecided"), (0.061, "beyond")]
)
def test_verdict_goes_by_the_interval(change: float, verdict: str) -> None:
    change_estimate = Estimate(change, change - 0.01, change + 0.01, "nats", "estimate")
    assert BudgetOutcome(0.05, 0.5, 1.0, change_estimate, None, 0).verdict == verdict


@pytest.mark.parametrize("lora", [False, True])
def test_what_is_left_is_a_plain_model_at_the_setting(lora: bool, tmp_path: Path) -> None:
    """What `save_model` writes is loaded by libraries that know no dial."""
    rows = tiny.rows(40, seed=3)
    trainer = tiny.trained(Budget(budget=0.02), tiny.config(tmp_path / "run"), tmp_path, lora)
    expected = context_of(trainer).row_nll(rows)[0]
    trainer.save_model(str(tmp_path / "saved"))
    if not lora:
        again: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    else:
        assert trainer.model.peft_config.keys() == {"default"}
        assert trainer.model.peft_config["default"].r == 2 * tiny.lora_config().r
        start = tiny.tiny_llama(tmp_path / "model")[0]
        again = PeftModel.from_pretrained(start, str(tmp_path / "saved"))
    np.testing.assert_allclose(response_nll(again, rows, 4096)[0], expected, rtol=1e-5)


def test_an_interrupted_budget_ends_as_one_that_was_not(tmp_path: Path) -> None:
    settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    whole = tiny.trained(Budget(budget=0.02), tiny.config(tmp_path / "a", **settings), tmp_path)
    half = tiny.config(tmp_path / "b", **settings)
    tiny.trained(Budget(budget=0.02), half, tmp_path)
    shutil.rmtree(tmp_path / "b" / "checkpoint-4")
    resumed = tiny.trained(Budget(budget=0.02), half, tmp_path, resume=True)
    assert outcome_of(resumed) == outcome_of(whole)


def test_budgets_out_of_range_are_refused() -> None:
    with pytest.raises(UserError, match="number"):
        Budget(budget=math.nan)


def test_validation_rows_are_never_trained_on() -> None:
    rows = tiny.rows(200, seed=5)
    train, validation = set_aside(rows, limit=30, drawn=1000, seed=0)

    def texts(part: Dataset) -> set[tuple[int, ...]]:
        return {tuple(ids) for ids in part["input_ids"]}

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

    def first_tokens(part: Dataset) -> set[int]:
        return {ids[0] for ids in part["input_ids"]}

    train, validation = set_aside(rows, limit=500, drawn=1000, seed=0)
    assert (len(train), len(validation)) == (48, 12)
    assert not first_tokens(train) & first_tokens(validation)
    train, validation = set_aside(rows, limit=500, drawn=1000, seed=0, repeats=True)
    assert (len(train), len(validation)) == (48, 12)
    assert first_tokens(train) & first_tokens(validation)


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
    many = rows.select(range(90)).map(lambda row: {"input_ids": [3 + row["input_ids"][1] % 3, 9]})
    assert len(set_aside(many, limit=5, drawn=1000, seed=0)[1]) == 60  # two prompts, at the least


def test_rows_of_one_prompt_cannot_be_divided() -> None:
    rows = Dataset.from_list([{"input_ids": [3, 4], "labels": [-100, 4]}] * 10)
    with pytest.raises(UserError, match="all 10 safety rows have one prompt"):
        set_aside(rows, limit=500, drawn=1000, seed=0)
    two = Dataset.from_list([{"input_ids": [3 + n % 2, 4], "labels": [-100, 4]} for n in range(10)])
    with pytest.raises(UserError, match="all 10 safety rows have 2 prompts"):
        set_aside(two, limit=500, drawn=1000, seed=0)


def test_a_text_that_comes_again_is_not_both_trained_and_validated_on() -> None:
    texts = [[3 + number % 25, 4] for number in range(50)]
    rows = Dataset.from_list([{"input_ids": text, "labels": text} for text in texts])
    train, validation = set_aside(rows, limit=500, drawn=1000, seed=0)
    assert (len(train), len(validation)) == (40, 10)
    parts = ({tuple(ids) for ids in part["input_ids"]} for part in (train, validation))
    assert not next(parts) & next(parts)


@pytest.mark.parametrize(("rows", "limit"), [(5, 256), (40, 1)])
def test_one_row_alone_is_not_validated_on(rows: int, limit: int, tmp_path: Path) -> None:
    arguments = tiny.config(tmp_path, validation_rows=limit)
    model, tokenizer = tiny.tiny_llama(tmp_path / "model")
    trainer = SafetyAwareSFTTrainer(
        model,
        args=arguments,
        train_dataset=tiny.rows(16, seed=2),
        safety_dataset=tiny.rows(rows, seed=5),
        objective=Budget(budget=0.02),
        processing_class=tokenizer,
    )
    trainer.train()
    assert isinstance(trainer.objective, Budget)
    outcome = trainer.objective.outcome
    assert outcome is not None
    assert outcome.change.low < outcome.change.high or outcome.alpha == 0


def test_answers_to_one_prompt_are_compared_as_one() -> None:
    rows, tokens = tiny.rows(4, seed=5), np.array([1.0, 2.0, 3.0, 4.0])
    start, now = np.zeros(4), np.array([0.1, 0.3, 0.2, 0.9])
    paired = PairedRows(rows, np.array([2.0, 1, 1, 1]), start, tokens, np.array([0, 0, 1, 2]))
    change = paired.change(now)
    assert change.value == pytest.approx((0.2 + 0.3 + 0.2 + 0.9) / (2 + 2 + 3 + 4))
    (influence,) = change.influence.values()
    assert len(influence) == 3
    assert paired.rows_for(change, 0.01) == math.ceil(change.rows_for(0.01) * 5 / 3)


def test_a_repeated_row_is_measured_once_and_counted_as_often() -> None:
    rows = tiny.rows(6, seed=5).select([0, 1, 0, 2, 1, 0])
    distinct, places = distinct_rows(rows)
    assert len(distinct) == 3
    assert places.tolist() == [0, 1, 0, 2, 1, 0]


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
