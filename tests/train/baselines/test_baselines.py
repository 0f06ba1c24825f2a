"""Facts about published methods that train: their formulas, and that none is plain fine-tuning."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from datasets import concatenate_datasets
from peft import get_peft_model
from torch.nn.functional import cross_entropy

from tests.train import tiny
from trimtab import AlignmentLossConstraint, SafetyAwareSFTTrainer, UserError
from trimtab.config.methods import PUBLISHED
from trimtab.train.baselines.case_one_by_share import CaseOneByShare
from trimtab.train.baselines.constrained_sft import ConstrainedSFT
from trimtab.train.baselines.data_selection import DataSelection, RandomSubset
from trimtab.train.baselines.early_stopping import EarlyStopping
from trimtab.train.baselines.ewc import EWC
from trimtab.train.baselines.gradient_surgery import GradientSurgery, operated
from trimtab.train.baselines.kl_anchor import KLAnchor
from trimtab.train.baselines.l2_sp import L2SP
from trimtab.train.baselines.lazy_safety_alignment import LazySafetyAlignment
from trimtab.train.baselines.mixing import Mixing
from trimtab.train.baselines.orthogonal_projection import OrthogonalProjection, projected
from trimtab.train.baselines.orthogonal_subspace import OrthogonalSubspace
from trimtab.train.context import TrainingContext, context_of
from trimtab.train.methods import method_at
from trimtab.train.objectives.base import Objective, Step, trained

full_and_lora = pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])


def run(
    method: Objective, folder: Path, lora: bool = False, **settings: Any
) -> SafetyAwareSFTTrainer:
    trainer = tiny.trainer_of(method, folder, lora, **settings)
    trainer.train()
    return trainer


def furthest(first: Any, second: Any) -> float:
    pairs = zip(tiny.weights(first).values(), tiny.weights(second).values(), strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs)


def moved(model: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in trained(model):
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator))


@full_and_lora
def test_a_method_of_no_hooks_is_plain_sft(lora: bool, tmp_path: Path) -> None:
    plain = tiny.trained_plainly(tiny.config(tmp_path), tmp_path, lora)
    assert furthest(run(Objective(), tmp_path, lora), plain) == 0.0


def test_every_method_that_trains_is_tried() -> None:
    trained_by = {name for name, method in PUBLISHED.items() if method.stage == "training"}
    assert set(tiny.BASELINES) == trained_by
    for name, objective in tiny.BASELINES.items():
        assert type(method_at(PUBLISHED[name], PUBLISHED[name].grid[0])) is type(objective)


def test_a_method_is_said_to_read_safety_rows_where_it_does() -> None:
    for name, objective in tiny.BASELINES.items():
        assert PUBLISHED[name].reads_safety == objective.needs_safety, name


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_value_of_a_methods_grid_can_be_taken(name: str) -> None:
    method = PUBLISHED[name]
    assert len(method.grid) == len(set(method.grid)) == 5
    for strength in method.grid:
        instance = method_at(method, strength)
        assert getattr(instance, method.hyperparameter) == strength
        assert isinstance(instance, Objective) == (method.stage == "training")


@pytest.mark.parametrize("name", tiny.BASELINES)
def test_missing_safety_rows_are_an_error(name: str, tmp_path: Path) -> None:
    method = tiny.BASELINES[name]
    if not method.needs_safety:
        tiny.trainer_of(method, tmp_path, reads_safety=False)
        return
    with pytest.raises(UserError, match="safety_dataset"):
        tiny.trainer_of(method, tmp_path, reads_safety=False)


@pytest.mark.parametrize("method", [KLAnchor(on="task"), GradientSurgery()])
def test_a_missing_reference_model_is_an_error(method: Objective, tmp_path: Path) -> None:
    model, tokenizer = tiny.tiny_llama(tmp_path / "model")
    adapted = get_peft_model(model, tiny.lora_config())
    moved(adapted)  # its base is no longer the model it starts from
    with pytest.raises(UserError, match="aligned model"):
        SafetyAwareSFTTrainer(
            adapted,
            args=tiny.config(tmp_path),
            objective=method,
            train_dataset=tiny.rows(8, seed=2),
            safety_dataset=tiny.rows(8, seed=5),
            processing_class=tokenizer,
        )


@pytest.mark.parametrize("name", [n for n, o in tiny.BASELINES.items() if o.adjusts_gradient])
def test_what_a_method_adds_to_the_gradient_is_clipped_with_it(name: str, tmp_path: Path) -> None:
    start, _ = tiny.tiny_llama(tmp_path / "model")
    settings = {"optim": "sgd", "learning_rate": 1.0, "max_grad_norm": 0.1, "max_steps": 3}
    trainer = run(tiny.BASELINES[name], tmp_path, **settings)
    pairs = zip(tiny.weights(trainer).values(), start.parameters(), strict=True)
    squares = [float((now - before).detach().square().sum()) for now, before in pairs]
    assert 0 < sum(squares) ** 0.5 <= 3 * 0.1 * 1.001


def test_lazy_safety_alignment_reads_every_safety_row_before_one_comes_again(
    tmp_path: Path,
) -> None:
    method = LazySafetyAlignment(safety_steps=2, task_steps=3)
    before = [method.safety_steps_before(step) for step in range(11)]
    assert before == [0, 1, 2, 2, 2, 2, 3, 4, 4, 4, 4]
    seen: list[tuple[int, ...]] = []

    class Watched(LazySafetyAlignment):
        def loss(self, step: Step) -> torch.Tensor:
            if bool(step.is_safety.any()):
                seen.extend(tuple(row.tolist()) for row in step.inputs["input_ids"])
            return super().loss(step)

    run(Watched(1.0, safety_steps=2, task_steps=3), tmp_path, max_steps=11)
    assert len(seen) == 40  # five steps of eight rows: all that there are, once
    assert len(set(seen)) == 40


def test_mixing_is_case_one_at_the_ratio_of_tokens(tmp_path: Path) -> None:
    task, safety = tiny.rows(64, seed=2), tiny.rows(40, seed=5)

    def tokens(rows: Any) -> int:
        return sum(label != -100 for row in rows["labels"] for label in row)

    ratio = tokens(safety) / tokens(task)
    whole = {"optim": "sgd", "max_steps": 1}
    mixed = run(
        Mixing(40 / 64), tmp_path, per_device_train_batch_size=104, learning_rate=1.0, **whole
    )
    model, tokenizer = tiny.tiny_llama(tmp_path / "model")
    trainer = SafetyAwareSFTTrainer(
        model,
        args=tiny.config(
            tmp_path,
            per_device_train_batch_size=64,
            learning_rate=1 / (1 + ratio),
            safety_share=40 / 104,
            **whole,
        ),
        train_dataset=task,
        safety_dataset=safety,
        objective=AlignmentLossConstraint(ratio),
        processing_class=tokenizer,
    )
    trainer.train()
    assert furthest(mixed, trainer) < 2e-6


def test_mixing_repeats_safety_rows_evenly(tmp_path: Path) -> None:
    rows = tiny.trainer_of(Mixing(2.0), tmp_path).train_dataset
    assert len(rows) == 64 + 128
    times = [rows["input_ids"][64:].count(ids) for ids in tiny.rows(40, seed=5)["input_ids"]]
    assert set(times) <= {3, 4}


@full_and_lora
def test_l2_sp_adds_the_gradient_of_the_squared_distance(lora: bool, tmp_path: Path) -> None:
    method = L2SP(0.7)
    trainer = tiny.trainer_of(method, tmp_path, lora)
    learning, displacement = trainer.objective, trainer.displacement
    assert learning is not None
    assert displacement is not None
    moved(trainer.model)
    for weight in trained(trainer.model):
        weight.grad = None
    learning.adjust_gradient(context_of(trainer))
    gradients = [weight.grad for weight in trained(trainer.model)]
    parts = []
    for part in displacement.parts:
        if lora:
            (adapter,) = part.adapters
            parts.append((adapter.scaling * (adapter.b @ adapter.a)).square().sum())
        else:
            parts.append((part.weight - part.start).square().sum())
    expected = torch.autograd.grad(0.7 * sum(parts), trained(trainer.model))
    for gradient, expected_gradient in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, expected_gradient, atol=1e-5, rtol=1e-4)


def test_ewc_is_the_mean_squared_gradient_of_a_row_normalised(tmp_path: Path) -> None:
    trainer = tiny.trainer_of(EWC(0.5, fisher_rows=40), tmp_path)
    learning = trainer.objective
    assert isinstance(learning, EWC)
    model, _ = tiny.tiny_llama(tmp_path / "model")
    weights = trained(model)
    squares = [torch.zeros_like(weight) for weight in weights]
    for row in tiny.rows(40, seed=5):
        logits = model(torch.tensor([row["input_ids"]])).logits[0, :-1]
        loss = cross_entropy(logits, torch.tensor(row["labels"][1:]), reduction="sum")
        for square, part in zip(squares, torch.autograd.grad(loss, weights), strict=True):
            square.add_(part.square())
    mean = sum(s.sum() for s in squares) / sum(s.numel() for s in squares)
    for fisher, square in zip(learning.fisher, squares, strict=True):
        torch.testing.assert_close(fisher, square / mean, atol=1e-4, rtol=1e-3)
    assert all(weight.grad is None for weight in trained(trainer.model))  # none leaks
    start = [weight.detach().clone() for weight in trained(trainer.model)]
    moved(trainer.model)
    learning.adjust_gradient(context_of(trainer))
    for weight, w, f in zip(trained(trainer.model), start, learning.fisher, strict=True):
        torch.testing.assert_close(weight.grad, f * (weight - w).detach())


def test_lazy_safety_alignment_pulls_to_where_the_other_state_was_left(tmp_path: Path) -> None:
    method = LazySafetyAlignment(0.5, safety_steps=2, task_steps=3)
    assert [method.batch_roles(step) for step in range(7)] == ["safety"] * 2 + ["task"] * 3 + [
        "safety"
    ] * 2
    trainer = tiny.trainer_of(method, tmp_path)
    learning = trainer.objective
    assert isinstance(learning, LazySafetyAlignment)
    trainer.state.max_steps = 10
    safety_weights = []
    for step in range(6):
        trainer.state.global_step = step
        for weight in trained(trainer.model):
            weight.grad = torch.zeros_like(weight)
        if step == 2:
            safety_weights = [weight.detach().clone() for weight in trained(trainer.model)]
        if step == 5:
            task_weights = [weight.detach().clone() for weight in trained(trainer.model)]
        learning.adjust_gradient(context_of(trainer))
        if step <= 1:
            assert not any(weight.grad.any() for weight in trained(trainer.model) if step < 1)
        if step == 4:
            for weight, safety_weight in zip(trained(trainer.model), safety_weights, strict=True):
                torch.testing.assert_close(weight.grad, 0.5 * (weight - safety_weight).detach())
        moved(trainer.model)
    for state, task_weight in zip(learning.left["task"], task_weights, strict=True):
        torch.testing.assert_close(state, task_weight)


def test_lazy_safety_alignment_reads_one_role_at_a_time(tmp_path: Path) -> None:
    seen = []

    class Spy(LazySafetyAlignment):
        def loss(self, step: Any) -> torch.Tensor:
            seen.append((len(step.is_safety), bool(step.is_safety.all()), int(step.task_tokens)))
            return super().loss(step)

    run(Spy(1.0, safety_steps=1, task_steps=1), tmp_path)
    assert [rows for rows, _, _ in seen] == [8] * 4
    assert [safety for _, safety, _ in seen] == [True, False, True, False]
    assert [tokens > 0 for _, _, tokens in seen] == [False, True, False, True]


def test_surgery_removes_what_goes_against_safety_and_nothing_else() -> None:
    torch.manual_seed(0)
    task, safety = [torch.randn(3, 2), torch.randn(4)], [torch.randn(3, 2), torch.randn(4)]

    def inner(first: list[torch.Tensor], second: list[torch.Tensor]) -> float:
        return float(sum((a * b).sum() for a, b in zip(first, second, strict=True)))

    if inner(task, safety) > 0:
        safety = [-part for part in safety]
    cut = operated(task, safety, strength=0.0)
    assert inner(cut, safety) == pytest.approx(0.0, abs=1e-5)
    along = [part - cut_part for part, cut_part in zip(task, cut, strict=True)]
    assert inner(along, along) * inner(safety, safety) == pytest.approx(
        inner(along, safety) ** 2, rel=1e-4
    )
    agreeing = [-part for part in safety]
    for part, agreed, add in zip(task, operated(task, agreeing, 0.5), agreeing, strict=True):
        torch.testing.assert_close(agreed, part + 0.5 * add)


def test_safegrad_starts_as_plain_sft_and_pcgrad_does_not(tmp_path: Path) -> None:
    settings = {"max_steps": 1, "optim": "sgd", "learning_rate": 1.0}
    plain = tiny.trained_plainly(tiny.config(tmp_path, **settings), tmp_path)
    assert furthest(run(GradientSurgery(1.0), tmp_path, **settings), plain) < 1e-5
    towards_data = run(GradientSurgery(1.0, towards="data"), tmp_path, **settings)
    assert furthest(towards_data, plain) > 1e-3


@full_and_lora
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("seed", range(3))
def test_a_safety_gradient_that_is_rounding_removes_nothing(
    seed: int, precision: str, lora: bool, tmp_path: Path
) -> None:
    """At θ_s the KL's gradient is zero, and what is computed of it is noise on any processor."""
    seen: list[float] = []

    class Watched(GradientSurgery):
        def adjust_gradient(self, context: TrainingContext) -> None:
            assert self.safety_gradient is not None
            weights = trained(context.model)
            task = [torch.zeros_like(w) if w.grad is None else w.grad.clone() for w in weights]
            expected = [u + a for u, a in zip(task, self.safety_gradient, strict=True)]
            super().adjust_gradient(context)
            pairs = zip(weights, expected, strict=True)
            seen.append(
                max(float((w.grad - expected_weight).abs().max()) for w, expected_weight in pairs)
            )

    run(Watched(1.0), tmp_path, lora=lora, max_steps=1, seed=seed, bf16=precision == "bfloat16")
    assert seen == [0.0]  # the step is that of g_u + ρ·g_a


@full_and_lora
@pytest.mark.parametrize("on", ["safety", "task"])
def test_kl_anchor_holds_more_the_larger_it_is(on: Any, lora: bool, tmp_path: Path) -> None:
    start, _ = tiny.tiny_llama(tmp_path / "model")
    rows = tiny.rows(40, seed=5) if on == "safety" else tiny.rows(64, seed=2)

    def divergence(trainer: SafetyAwareSFTTrainer) -> float:
        total = 0.0
        for row in rows:
            ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"][1:])
            with torch.no_grad():
                before = start(ids).logits[0, :-1].log_softmax(-1)[labels != -100]
                now = trainer.model(ids).logits[0, :-1].log_softmax(-1)[labels != -100]
            total += float((before.exp() * (before - now)).sum())
        return total

    divergences = [
        divergence(run(KLAnchor(penalty, on=on), tmp_path, lora, max_steps=8))
        for penalty in (0.0, 1.0, 100.0)
    ]
    assert divergences[0] > divergences[1] > divergences[2]
    assert divergences[2] < 0.5 * divergences[0]


def test_constrained_sft_at_zero_is_plain_sft(tmp_path: Path) -> None:
    plain = tiny.trained_plainly(tiny.config(tmp_path), tmp_path)
    assert furthest(run(ConstrainedSFT(0.0), tmp_path), plain) == 0.0


def test_constrained_sft_weights_each_token_by_its_ratio(tmp_path: Path) -> None:
    method = ConstrainedSFT(0.1)
    trainer = tiny.trainer_of(method, tmp_path)
    start, _ = tiny.tiny_llama(tmp_path / "model")
    moved(trainer.model)
    batch = trainer.data_collator([tiny.rows(64, seed=2)[place] for place in (5, 3, 14)])
    from trimtab.train.scoring import label_log_probs

    log_probs = label_log_probs(trainer.model, batch)
    step = SimpleNamespace(
        inputs=batch, loss_of_token=-log_probs, task_tokens=torch.tensor(7), router_loss=0.0
    )
    expected = 0.0
    for place in (5, 3, 14):
        row = tiny.rows(64, seed=2)[place]
        ids, labels = torch.tensor([row["input_ids"]]), row["labels"]
        with torch.no_grad():
            now = trainer.model(ids).logits[0].log_softmax(-1)
            before = start(ids).logits[0].log_softmax(-1)
        responses = [at for at, label in enumerate(labels) if label != -100]
        for order, at in enumerate(responses):
            beta = 0.5 if order == 0 else 2.0 if order < 5 else 0.1
            p, q = now[at - 1, labels[at]], before[at - 1, labels[at]]
            weight = max(1e-3, 2 * (1 - float(torch.sigmoid(beta * (p - q)))))
            expected -= weight * float(p) / 7
    assert trainer.objective is not None
    assert float(trainer.objective.loss(cast(Any, step))) == pytest.approx(expected, rel=1e-4)


def test_early_stopping_ends_within_its_budget_and_never_at_infinity(tmp_path: Path) -> None:
    plain = tiny.trained_plainly(tiny.config(tmp_path), tmp_path)
    assert furthest(run(EarlyStopping(float("inf")), tmp_path), plain) == 0.0
    stopped = run(EarlyStopping(0.05), tmp_path, max_steps=30)
    assert stopped.state.global_step < 30
    learned = stopped.objective
    assert isinstance(learned, EarlyStopping)
    assert learned._safety_loss(context_of(stopped)) <= learned.highest


def test_data_selection_keeps_the_same_rows_however_a_step_is_divided(tmp_path: Path) -> None:
    kept = [
        tiny.trainer_of(
            DataSelection(0.5, epochs=2),
            tmp_path,
            per_device_train_batch_size=rows,
            gradient_accumulation_steps=8 // rows,
        ).train_dataset["input_ids"]
        for rows in (8, 2)
    ]
    assert kept[0] == kept[1]


def test_data_selection_keeps_the_rows_that_go_with_safety(tmp_path: Path) -> None:
    alike, unlike = tiny.rows(32, seed=5), tiny.rows(32, seed=2)
    model, tokenizer = tiny.tiny_llama(tmp_path / "model")
    trainer = SafetyAwareSFTTrainer(
        model,
        args=tiny.config(tmp_path),
        objective=DataSelection(0.5, epochs=6, selector_rate=0.05),
        train_dataset=concatenate_datasets([alike, unlike]),
        safety_dataset=tiny.rows(40, seed=5),
        processing_class=tokenizer,
    )
    is_alike = [ids in alike["input_ids"] for ids in trainer.train_dataset["input_ids"]]
    assert len(is_alike) == 32
    assert sum(is_alike) > 24
    untouched, _ = tiny.tiny_llama(tmp_path / "model")
    for name, weight in untouched.named_parameters():  # the selector trains a copy
        torch.testing.assert_close(trainer.model.get_parameter(name), weight, atol=0, rtol=0)
    assert len(tiny.trainer_of(RandomSubset(0.25), tmp_path).train_dataset) == 16


def test_case_one_by_share_is_case_one_whatever_its_rows(tmp_path: Path) -> None:
    settings = {"max_steps": 1, "optim": "sgd", "learning_rate": 1.0, "safety_share": 0.7 / 1.7}
    ours = run(CaseOneByShare(0.7), tmp_path, **settings)
    penalised = tiny.trained(
        AlignmentLossConstraint(0.7), tiny.config(tmp_path, **settings), tmp_path
    )
    assert furthest(ours, penalised) < 1e-6
    assert CaseOneByShare(3.0).safety_share == 0.75


def test_projection_leaves_the_loss_of_every_reference_as_it_is_to_first_order() -> None:
    torch.manual_seed(0)

    def gradient() -> list[torch.Tensor]:
        return [torch.randn(3, 2), torch.randn(4)]

    task, references = gradient(), [gradient() for _ in range(3)]
    references.append([2 * part for part in references[0]])  # which adds no direction
    for part, *along in zip(task, *references, strict=True):  # each weight by itself
        cut = projected(part, along, 1.0)
        for reference in along:
            assert float((cut * reference).sum()) == pytest.approx(0.0, abs=1e-4)
        assert float(((part - cut) * cut).sum()) == pytest.approx(0.0, abs=1e-4)
        half = projected(part, along, 0.5)
        torch.testing.assert_close(half, (part + cut) / 2, atol=1e-5, rtol=1e-4)


def test_projection_of_strength_zero_is_plain_sft(tmp_path: Path) -> None:
    plain = tiny.trained_plainly(tiny.config(tmp_path), tmp_path)
    assert furthest(run(OrthogonalProjection(0.0), tmp_path), plain) < 1e-6


def test_what_osf_holds_does_not_move(tmp_path: Path) -> None:
    start = dict(tiny.tiny_llama(tmp_path / "model")[0].named_parameters())
    # An adaptive optimizer scales the gradient entry by entry, and so leaves the complement.
    settings = {"optim": "sgd", "learning_rate": 0.1, "max_steps": 8}
    merged = run(OrthogonalSubspace(0.5), tmp_path, **settings).model.merge_and_unload()
    moved_at_all = 0.0
    for name, weight in merged.named_parameters():
        if "proj" not in name:
            continue
        before = start[name].detach()
        left_vectors, values, right_vectors = torch.linalg.svd(before, full_matrices=False)
        rank = round(0.5 * len(values))
        held = left_vectors[:, :rank].T @ (weight.detach() - before) @ right_vectors[:rank].T
        assert held.abs().max() < 1e-4
        moved_at_all = max(moved_at_all, float((weight.detach() - before).abs().max()))
    assert moved_at_all > 1e-3


def test_osf_takes_no_adapter_beside_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Leave lora_rank out"):
        tiny.trainer_of(OrthogonalSubspace(0.5), tmp_path, lora=True)


@pytest.mark.parametrize(("penalty", "share"), [(0.03, 0.5), (3.0, 0.5)])
def test_case_one_by_share_takes_no_other_share(
    penalty: float, share: float, tmp_path: Path
) -> None:
    wanted = penalty / (1 + penalty)
    with pytest.raises(UserError, match=rf"Give SafetyAwareSFTConfig safety_share={wanted:.3g}"):
        tiny.trainer_of(CaseOneByShare(penalty), tmp_path, safety_share=share)
    trainer = tiny.trainer_of(CaseOneByShare(penalty), tmp_path, safety_share=wanted)
    assert trainer.safety_stream is not None
    assert trainer.safety_stream.rows_per_batch == max(1, round(8 * penalty))


@pytest.mark.parametrize("name", ["early-stopping", "lazy-safety-alignment", "dial"])
def test_a_checkpoint_of_another_training_is_one_line(name: str, tmp_path: Path) -> None:
    """Of plain fine-tuning, whose model fits and which keeps nothing of an objective."""
    saving = {"save_strategy": "steps", "save_steps": 1, "max_steps": 1}
    tiny.trained_plainly(tiny.config(tmp_path / "run", **saving), tmp_path)
    trainer = tiny.trainer_of(tiny.OBJECTIVES[name], tmp_path, max_steps=2)
    with pytest.raises(UserError, match=r"checkpoint-1 holds no objective\.pt, where \w+ keeps"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "run/checkpoint-1"))


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_grid_runs_from_nearly_plain_to_the_tightest(name: str) -> None:
    method = PUBLISHED[name]
    strengths = [method.strength(value) for value in method.grid]
    assert strengths == sorted(strengths)
