"""Facts about training under a constraint: what it reduces to, and what it does not depend on."""

from __future__ import annotations

import inspect
from functools import partial
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from torch.nn.functional import cross_entropy
from trl import SFTTrainer

from tests.train import tiny
from trimtab import AlignmentLossConstraint, AlignmentParameterConstraint, Budget, UserError
from trimtab.measure.adapters import LowRankAdapter
from trimtab.measure.distance import Displacement, LowRankPart, distance
from trimtab.train.objectives.base import Objective
from trimtab.train.objectives.proximal import shrink
from trimtab.train.step_losses import TrainingDivergedError
from trimtab.train.trainer import SafetyAwareSFTTrainer

every_constraint = pytest.mark.parametrize("name", tiny.CONSTRAINTS)
full_and_lora = pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])


def assert_same_weights(first: SFTTrainer, second: SFTTrainer, tolerance: float = 0.0) -> None:
    for name, weight in tiny.weights(first).items():
        torch.testing.assert_close(
            weight, tiny.weights(second)[name], atol=tolerance, rtol=tolerance, msg=name
        )


@full_and_lora
@pytest.mark.parametrize(
    "constraint",
    [
        None,
        AlignmentLossConstraint(penalty=0.0),
        AlignmentParameterConstraint(penalty=0.0),
        AlignmentParameterConstraint(radius=float("inf")),
        Budget(budget=float("inf")),
    ],
    ids=str,
)
def test_no_constraint_is_plain_sft(
    constraint: Objective | None, lora: bool, tmp_path: Path
) -> None:
    ours = tiny.trained(constraint, tiny.config(tmp_path), tmp_path, lora)
    assert_same_weights(ours, tiny.trained_plainly(tiny.config(tmp_path), tmp_path, lora))


def test_case_one_gradient_is_that_of_the_two_token_means(tmp_path: Path) -> None:
    penalty = 0.7
    model, _ = tiny.tiny_llama(tmp_path / "model")
    start = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    arguments = tiny.config(tmp_path, optim="sgd", learning_rate=1.0, max_steps=1)
    trainer = tiny.trained(AlignmentLossConstraint(penalty), arguments, tmp_path)
    order = next(iter(trainer.get_train_dataloader().batch_sampler))
    task = [tiny.rows(64, seed=2)[index] for index in order]
    assert trainer.safety_stream is not None
    safety = trainer.safety_stream.batch(0)

    def mean_over_tokens(ids: list[torch.Tensor], labels: list[torch.Tensor]) -> torch.Tensor:
        losses = [
            cross_entropy(model(row[None]).logits[0, :-1], label[1:], reduction="none")
            for row, label in zip(ids, labels, strict=True)
        ]
        counted = torch.cat([label[1:] != -100 for label in labels])
        return torch.cat(losses)[counted].mean()

    task_loss = mean_over_tokens(
        [torch.tensor(row["input_ids"]) for row in task],
        [torch.tensor(row["labels"]) for row in task],
    )
    safety_loss = mean_over_tokens(list(safety["input_ids"]), list(safety["labels"]))
    (task_loss + penalty * safety_loss).backward()
    for name, weight in model.named_parameters():
        step = start[name] - tiny.weights(trainer)[name]
        torch.testing.assert_close(weight.grad, step, atol=2e-6, rtol=1e-5, msg=name)


def test_share_of_safety_rows_does_not_change_the_task_part(tmp_path: Path) -> None:
    logged = []
    for share in (0.2, 0.5):
        model, tokenizer = tiny.tiny_llama(tmp_path / "model")
        trainer = SafetyAwareSFTTrainer(
            model,
            args=tiny.config(tmp_path, max_steps=1, logging_steps=1, safety_share=share),
            train_dataset=tiny.rows(64, seed=2),
            safety_dataset=tiny.rows(40, seed=5),
            objective=AlignmentLossConstraint(1.0),
            processing_class=tokenizer,
        )
        trainer.train()
        logged.append(trainer.state.log_history[0])
    assert logged[0]["task_loss"] == pytest.approx(logged[1]["task_loss"], rel=1e-5)
    assert logged[0]["num_tokens"] < logged[1]["num_tokens"]


def test_logged_roles_add_up_to_the_loss_under_accumulation(tmp_path: Path) -> None:
    arguments = tiny.config(
        tmp_path, per_device_train_batch_size=4, gradient_accumulation_steps=4, logging_steps=1
    )
    trainer = tiny.trained(AlignmentLossConstraint(0.7), arguments, tmp_path)
    for entry in trainer.state.log_history[:-1]:
        total = entry["task_loss"] + 0.7 * entry["safety_loss"]
        assert entry["loss"] == pytest.approx(total, rel=1e-3)


@full_and_lora
def test_ball_is_kept_after_every_step(lora: bool, tmp_path: Path) -> None:
    trainer = tiny.trained(
        AlignmentParameterConstraint(radius=0.05),
        tiny.config(tmp_path, logging_steps=1, max_steps=6),
        tmp_path,
        lora,
    )
    distances = [entry["distance"] for entry in trainer.state.log_history]
    assert max(distances) <= 0.05 * (1 + 1e-5)
    assert distances[-1] == pytest.approx(0.05, rel=1e-4)  # the task pulls, so the ball is tight


@full_and_lora
def test_distance_falls_with_the_penalty(lora: bool, tmp_path: Path) -> None:
    distances = []
    for penalty in (0.01, 1.0, 100.0, 1e8):
        constraint = AlignmentParameterConstraint(penalty=penalty)
        trainer = tiny.trained(constraint, tiny.config(tmp_path), tmp_path, lora)
        assert trainer.displacement is not None
        distances.append(trainer.displacement.norm().item())
    assert distances == sorted(distances, reverse=True)
    assert distances[0] > 10 * distances[2]
    assert distances[-1] < 1e-5


def test_divergence_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(TrainingDivergedError, match="step"):
        tiny.trained(
            AlignmentLossConstraint(1.0),
            tiny.config(tmp_path, learning_rate=1e30, optim="sgd", max_steps=20),
            tmp_path,
        )


def test_case_one_without_safety_rows_is_refused(tmp_path: Path) -> None:
    model, tokenizer = tiny.tiny_llama(tmp_path / "model")
    with pytest.raises(UserError, match="safety_dataset"):
        SafetyAwareSFTTrainer(
            model,
            args=tiny.config(tmp_path),
            train_dataset=tiny.rows(8, seed=2),
            objective=AlignmentLossConstraint(1.0),
            processing_class=tokenizer,
        )


def test_unknown_optimizer_steps_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="radius"):
        tiny.trained(
            AlignmentParameterConstraint(penalty=1.0),
            tiny.config(tmp_path, optim="rmsprop"),
            tmp_path,
        )


def test_half_precision_weights_are_refused_in_case_two(tmp_path: Path) -> None:
    model, tokenizer = tiny.tiny_llama(tmp_path / "model")
    with pytest.raises(UserError, match="float32"):
        SafetyAwareSFTTrainer(
            model.to(torch.bfloat16),
            args=tiny.config(tmp_path),
            train_dataset=tiny.rows(8, seed=2),
            objective=AlignmentParameterConstraint(radius=1.0),
            processing_class=tokenizer,
        )


def test_lora_distance_is_the_norm_of_the_formed_product(tmp_path: Path) -> None:
    trainer = tiny.trained(
        AlignmentParameterConstraint(penalty=0.1), tiny.config(tmp_path), tmp_path, lora=True
    )
    aligned, _ = tiny.tiny_llama(tmp_path / "model")
    by_gram = distance(trainer.model, aligned)
    merged = trainer.model.merge_and_unload()
    assert by_gram == pytest.approx(distance(merged, aligned), rel=1e-4)
    assert by_gram > 0.01


def test_adapter_that_is_already_trained_is_refused(tmp_path: Path) -> None:
    trainer = tiny.trained(None, tiny.config(tmp_path), tmp_path, lora=True)
    with pytest.raises(UserError, match="merge_and_unload"):
        Displacement(trainer.model)


@pytest.mark.parametrize("optimizer", ["adamw_torch", "sgd"])
def test_penalty_reaches_the_minimiser_of_its_objective(optimizer: str) -> None:
    """On L_f = ½‖M(w − c)‖² the minimiser of L_f + λ‖w − w_s‖² is known in closed form."""
    torch.manual_seed(0)
    penalty, size = 0.8, 6
    mixing, target, start = torch.randn(size, size) / 2, torch.randn(size), torch.randn(size)
    layer = torch.nn.Linear(size, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(start)
    displacement = Displacement(layer)
    make = {"adamw_torch": torch.optim.AdamW, "sgd": torch.optim.SGD}[optimizer]
    descent = make(layer.parameters(), lr=0.02, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LinearLR(descent, 1.0, 0.0, 4000)
    for _ in range(4000):
        descent.zero_grad()
        (0.5 * (mixing @ (layer.weight[0] - target)).square().sum()).backward()
        descent.step()
        shrink(displacement, penalty, descent)
        schedule.step()
    curvature = mixing.T @ mixing
    expected = torch.linalg.solve(
        curvature + 2 * penalty * torch.eye(size), curvature @ target + 2 * penalty * start
    )
    torch.testing.assert_close(layer.weight[0].detach(), expected, atol=1e-3, rtol=1e-3)


def test_low_rank_penalty_step_balances_the_gradient_of_the_product(tmp_path: Path) -> None:
    """At a fixed point of gradient step and shrinkage, ∇L_f + λ∇‖s·BA‖² = 0 in B and in A."""
    torch.manual_seed(0)
    a = torch.nn.Parameter(torch.randn(2, 5))
    b = torch.nn.Parameter(torch.randn(4, 2))
    part = LowRankPart((LowRankAdapter("weight", a, b, 1.5),))
    penalty, target = 0.3, torch.randn(4, 5)

    def task_loss() -> torch.Tensor:
        return (1.5 * b @ a - target).square().sum()

    for rate in (*[1e-2] * 1000, *[2e-3] * 2000):
        gradients = torch.autograd.grad(task_loss(), [b, a])
        with torch.no_grad():
            for parameter, gradient in zip([b, a], gradients, strict=True):
                parameter.sub_(rate * gradient)
        part.shrink_(penalty, partial(torch.full_like, fill_value=rate))
    objective = task_loss() + penalty * (1.5 * b @ a).square().sum()
    for gradient in torch.autograd.grad(objective, [b, a]):
        assert gradient.abs().max() < 2e-2
    assert (1.5 * b @ a).abs().max() > 0.1


class Switching(torch.optim.SGD):
    """An optimizer that trains other weights than those to evaluate, as schedule-free ones do."""

    def eval(self) -> None:
        """Put the weights to evaluate in place."""

    def train(self) -> None:
        """Put the weights to train in place."""


HELD = [name for name in tiny.CONSTRAINTS if "parameter" in name]


@pytest.mark.parametrize("name", HELD)
def test_an_optimizer_that_evaluates_other_weights_is_refused_where_weights_are_held(
    name: str, tmp_path: Path
) -> None:
    model, tokenizer = tiny.tiny_llama(tmp_path / "model")

    def trainer(constraint: Objective | None) -> SafetyAwareSFTTrainer:
        return SafetyAwareSFTTrainer(
            model,
            args=tiny.config(tmp_path, max_steps=1),
            train_dataset=tiny.rows(64, seed=2),
            safety_dataset=tiny.rows(40, seed=5),
            objective=constraint,
            processing_class=tokenizer,
            optimizers=(Switching(model.parameters(), lr=0.1), None),
        )

    with pytest.raises(UserError, match="Switching"):
        trainer(tiny.CONSTRAINTS[name])
    trainer(None).train()
    with pytest.raises(UserError, match="schedule_free_adamw"):
        SafetyAwareSFTTrainer(
            model,
            args=tiny.config(tmp_path, optim="schedule_free_adamw"),
            train_dataset=tiny.rows(64, seed=2),
            safety_dataset=tiny.rows(40, seed=5),
            objective=tiny.CONSTRAINTS[name],
            processing_class=tokenizer,
        )


def test_the_trainer_takes_every_argument_of_trl_in_its_place() -> None:
    of_trl = list(inspect.signature(SFTTrainer.__init__).parameters)
    ours = list(inspect.signature(SafetyAwareSFTTrainer.__init__).parameters)
    assert ours[: len(of_trl)] == of_trl


def test_case_one_refuses_another_loss_function(tmp_path: Path) -> None:
    model, tokenizer = tiny.tiny_llama(tmp_path / "model")
    trls_own = pytest.warns(FutureWarning, match="compute_loss_func")
    with trls_own, pytest.raises(UserError, match="compute_loss_func"):
        SafetyAwareSFTTrainer(
            model,
            args=tiny.config(tmp_path),
            train_dataset=tiny.rows(8, seed=2),
            safety_dataset=tiny.rows(8, seed=5),
            objective=tiny.CONSTRAINTS["loss-penalty"],
            processing_class=tokenizer,
            compute_loss_func=lambda *args, **settings: torch.zeros(()),
        )


@full_and_lora
def test_a_saved_model_has_a_card_of_what_was_trained(lora: bool, tmp_path: Path) -> None:
    trainer = tiny.trained(
        AlignmentLossConstraint(0.7), tiny.config(tmp_path, max_steps=2), tmp_path, lora
    )
    trainer.save_model(str(tmp_path / "saved"))
    card = (tmp_path / "saved/README.md").read_text(encoding="utf-8")
    data = ModelCard(card).data
    assert data.library_name == ("peft" if lora else "transformers")
    assert "trimtab" in data.tags
    assert "`AlignmentLossConstraint(penalty=0.7" in card
    assert f"2 of 2 steps on {len(trainer.train_dataset)} task rows" in card
    assert "safety rows" in card
    assert "2503.20807" in card
    assert str(tmp_path) not in card
    assert "More Information Needed" not in card
    trainer.create_model_card()
    assert (Path(trainer.args.output_dir) / "README.md").read_text(encoding="utf-8") == card
