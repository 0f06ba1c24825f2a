"""Facts about a dial in training: its endpoints, its gradient, and what it does not depend on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, PeftModel, get_peft_model
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM
from trl import SFTConfig

from tests.train import tiny
from trimtab import DialObjective, SafetyAwareSFTTrainer
from trimtab.config.experiment import Dial
from trimtab.errors import UserError
from trimtab.measure.distance import distance
from trimtab.train.divided_rows import row_split
from trimtab.train.objectives.alignment_loss import Target
from trimtab.train.objectives.endpoints import load_endpoints, new_endpoints

full_and_lora = pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])

IDS = torch.arange(3, 15).reshape(2, 6)


def dial_of(
    arguments: SFTConfig, folder: Path, lora: bool = False, target: Target = "response"
) -> SafetyAwareSFTTrainer:
    return tiny.trained(DialObjective(target=target), arguments, folder, lora)


def dial_in(trainer: SafetyAwareSFTTrainer) -> DialObjective:
    assert isinstance(trainer.objective, DialObjective)
    return trainer.objective


def logits(model: torch.nn.Module) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        return model(input_ids=IDS).logits


@pytest.mark.parametrize("seed", [0, 1, 42])
def test_settings_are_even_between_the_ends_however_many_are_taken(seed: int) -> None:
    dial = Dial(end_share=0.15)
    for steps in (20, 48, 400):
        settings = torch.tensor([dial.setting_of_step(seed, step) for step in range(steps)])
        for end in (0.0, 1.0):
            assert float((settings == end).float().mean()) == pytest.approx(0.15, abs=2 / steps)
        inside = settings[(settings > 0) & (settings < 1)]
        counts = torch.histc(inside, bins=4, min=0, max=1)
        assert int(counts.max() - counts.min()) <= 3


def test_settings_differ_by_seed() -> None:
    first, second = ([Dial().setting_of_step(seed, n) for n in range(30)] for seed in (0, 1))
    assert sum(abs(a - b) for a, b in zip(first, second, strict=True)) > 1


def test_rows_are_divided_by_what_they_weigh() -> None:
    dial = DialObjective()
    for step in range(50):
        alpha = Dial().setting_of_step(0, step)
        of_task, of_safety = row_split(64, dial.safety_share_at(step, seed=0))
        assert of_task + of_safety == 64
        assert min(of_task, of_safety) >= 8
        if abs(alpha - 0.5) < 0.05:  # λ is near 1
            assert abs(of_task - of_safety) < 30
    assert row_split(64, dial.safety_share_at(0, 0)) != row_split(64, dial.safety_share_at(1, 0))


def test_every_task_row_comes_before_one_comes_again(tmp_path: Path) -> None:
    """The rows that a step draws follow those of the steps before, however it divides them."""
    seen: list[tuple[int, ...]] = []
    trainer = dial_of(tiny.config(tmp_path, max_steps=1), tmp_path)
    collate = trainer.data_collator

    def remembered(rows: list[dict[str, Any]]) -> Any:
        seen.extend(tuple(row["input_ids"]) for row in rows)
        return collate(rows)

    assert trainer.safety_stream is not None
    trainer.safety_stream = replace(trainer.safety_stream, collate=remembered)
    batches_of = replace(trainer._role_batches, safety=trainer.safety_stream)
    drawn = 0
    for step in range(6):
        batches, tokens = batches_of.of_step(step, [{}], 0)
        drawn += int((~batches[0]["is_safety"]).sum())
        assert tokens.min() > 0
    places = replace(trainer.safety_stream, rows=trainer.train_dataset).places(0, drawn)
    expected = [tuple(trainer.train_dataset[place]["input_ids"]) for place in places]
    assert [row for row in seen if row in set(expected)][: len(expected)] == expected


def test_the_adapters_of_a_dial_are_drawn_by_its_seed_alone(tmp_path: Path) -> None:
    drawn = []
    for state in (1, 2):
        torch.manual_seed(state)
        trainer = dial_of(tiny.config(tmp_path), tmp_path, lora=True)
        drawn.append({name: w.clone() for name, w in tiny.weights(trainer).items()})
    tiny.assert_same(*drawn, by=0.0)


def test_a_dial_of_a_models_folder_is_that_of_the_model(tmp_path: Path) -> None:
    trained = dial_of(tiny.config(tmp_path), tmp_path)
    by_name = SafetyAwareSFTTrainer(
        str(tmp_path / "model"),
        args=tiny.config(tmp_path),
        train_dataset=tiny.rows(64, seed=2),
        safety_dataset=tiny.rows(40, seed=5),
        objective=DialObjective(),
    )
    by_name.train()
    tiny.assert_same(tiny.weights(trained), tiny.weights(by_name), by=0.0)


@full_and_lora
def test_every_setting_of_a_new_dial_is_the_aligned_model(lora: bool, tmp_path: Path) -> None:
    model, _ = tiny.tiny_llama(tmp_path / "model")
    start = logits(model)
    endpoints = new_endpoints(model, tiny.lora_config() if lora else None)
    for alpha in (0.0, 0.37, 1.0):
        endpoints.set_alpha(alpha)
        torch.testing.assert_close(logits(endpoints.model), start, atol=0, rtol=0)


def test_ends_are_tied_where_the_model_is_and_no_memory_of_it(tmp_path: Path) -> None:
    model, _ = tiny.tiny_llama(tmp_path / "model")
    model.lm_head.weight = model.model.embed_tokens.weight
    endpoints = new_endpoints(model, None)
    endpoints.set_alpha(0.3)  # before there are ends
    places = [{weight.data_ptr() for weight in model.parameters()}]
    for end in endpoints.trained().children():
        assert end.lm_head.weight is end.model.embed_tokens.weight
        tiny.assert_same(dict(end.named_parameters()), dict(model.named_parameters()), by=0.0)
        places.append({weight.data_ptr() for weight in end.parameters()})
    assert not places[0] & places[1] | places[0] & places[2] | places[1] & places[2]


def test_gradient_moves_the_task_end_by_alpha_and_the_safe_end_by_the_rest(tmp_path: Path) -> None:
    model, _ = tiny.tiny_llama(tmp_path / "model")
    start = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    arguments = tiny.config(tmp_path, optim="sgd", learning_rate=1.0, max_steps=1, seed=2)
    trainer = dial_of(arguments, tmp_path)
    alpha = Dial().setting_of_step(arguments.seed, 0)
    penalty = Dial().penalty_at(alpha)
    assert 0.05 < alpha < 0.95
    stream = trainer.safety_stream
    assert stream is not None
    rows = arguments.per_device_train_batch_size + stream.rows_per_batch
    of_task, of_safety = row_split(rows, penalty / (1 + penalty))
    safety = stream.drawn(0, of_safety)
    task = replace(stream, rows=trainer.train_dataset).drawn(0, of_task)

    def mean_over_tokens(ids: list[torch.Tensor], labels: list[torch.Tensor]) -> torch.Tensor:
        losses = [
            cross_entropy(model(row[None]).logits[0, :-1], label[1:], reduction="none")
            for row, label in zip(ids, labels, strict=True)
        ]
        return torch.cat(losses)[torch.cat([label[1:] != -100 for label in labels])].mean()

    task_loss = mean_over_tokens(list(task["input_ids"]), list(task["labels"]))
    safety_loss = mean_over_tokens(list(safety["input_ids"]), list(safety["labels"]))
    ((task_loss + penalty * safety_loss) / (1 + penalty)).backward()
    endpoints = tiny.weights(trainer)
    for name, weight in model.named_parameters():
        for end, share in (("task", alpha), ("safe", 1 - alpha)):
            step = start[name] - endpoints[f"{end}.{name}"]
            torch.testing.assert_close(share * weight.grad, step, atol=2e-6, rtol=1e-5, msg=name)


def test_a_weight_that_no_gradient_reaches_stays_where_it_is(tmp_path: Path) -> None:
    endpoints = dial_in(dial_of(tiny.config(tmp_path), tmp_path)).endpoints
    weight, *ends = endpoints.copies()[0]
    weight.grad = torch.ones_like(weight)
    endpoints.share_gradient(0.25)
    assert [float(end.grad.mean()) for end in ends if end.grad is not None] == [0.25, 0.75]
    weight.grad = None
    endpoints.share_gradient(0.25)
    assert [end.grad for end in ends] == [None, None]


@full_and_lora
def test_a_saved_setting_is_one_plain_model_with_the_same_logits(
    lora: bool, tmp_path: Path
) -> None:
    trainer = dial_of(tiny.config(tmp_path, max_steps=12), tmp_path, lora)
    dial_in(trainer).endpoints.save(tmp_path / "dial", trainer.processing_class)
    aligned, _ = tiny.tiny_llama(tmp_path / "model")
    endpoints = load_endpoints(tmp_path / "dial", aligned)
    for alpha in (0.0, 0.3, 1.0):
        dial_in(trainer).endpoints.set_alpha(alpha)
        expected = logits(dial_in(trainer).endpoints.model)
        endpoints.set_alpha(alpha)
        torch.testing.assert_close(logits(endpoints.model), expected, atol=0, rtol=0)
        folder = tmp_path / f"at-{alpha}"
        endpoints.save_at(alpha, folder, merged=False)
        loader = AutoPeftModelForCausalLM if lora else AutoModelForCausalLM
        loaded = loader.from_pretrained(folder)
        torch.testing.assert_close(logits(loaded), expected, atol=1e-5, rtol=1e-5)
        if lora:
            assert loaded.peft_config["default"].r == 2 * tiny.lora_config().r
            endpoints.save_at(alpha, tmp_path / f"merged-{alpha}", merged=True)
            merged = AutoModelForCausalLM.from_pretrained(tmp_path / f"merged-{alpha}")
            torch.testing.assert_close(logits(merged), expected, atol=1e-5, rtol=1e-5)


def test_distance_of_two_adapters_is_that_of_their_sum(tmp_path: Path) -> None:
    trainer = dial_of(tiny.config(tmp_path, max_steps=12), tmp_path, lora=True)
    aligned, _ = tiny.tiny_llama(tmp_path / "model")
    dial_in(trainer).endpoints.set_alpha(0.4)
    by_gram = distance(dial_in(trainer).endpoints.model, aligned)
    dial_in(trainer).endpoints.save_at(0.4, tmp_path / "merged", merged=True)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert by_gram == pytest.approx(distance(merged, aligned), rel=1e-4)


@pytest.mark.parametrize("kind", ["use_dora", "use_rslora"])
def test_adapters_that_do_not_add_up_are_refused(kind: str, tmp_path: Path) -> None:
    model, _ = tiny.tiny_llama(tmp_path / "model")
    with pytest.raises(UserError, match="plain LoRA"):
        SafetyAwareSFTTrainer(
            model,
            objective=DialObjective(),
            peft_config=LoraConfig(target_modules="all-linear", **{kind: True}),
        )


@full_and_lora
def test_a_dial_may_ask_for_the_aligned_distribution_which_its_safe_end_then_keeps(
    lora: bool, tmp_path: Path
) -> None:
    start, _ = tiny.tiny_llama(tmp_path / "model")

    def strayed(target: Target) -> float:
        """Mean over the safety rows of KL(P_θs ‖ P_θ(0)) at their last prefix, in nats."""
        settings = tiny.config(tmp_path / "run", max_steps=20)
        trainer = dial_of(settings, tmp_path, lora, target=target)
        dial_in(trainer).endpoints.set_alpha(0.0)
        dial_in(trainer).endpoints.model.eval()
        divergences = []
        for row in tiny.rows(40, seed=5):
            ids = torch.tensor([row["input_ids"][:-1]])
            with torch.no_grad():
                before, after = (
                    model(input_ids=ids).logits[0, -1].log_softmax(-1)
                    for model in (start, dial_in(trainer).endpoints.model)
                )
            divergences.append(float((before.exp() * (before - after)).sum()))
        return sum(divergences) / len(divergences)

    assert strayed("kl") < 0.5 * strayed("response")


@pytest.mark.parametrize(
    "asked",
    [
        {"bias": "all"},
        {"bias": "lora_only"},
        {"lora_bias": True},
        {"modules_to_save": ["lm_head"]},
        {"trainable_token_indices": [3]},
        {"target_parameters": ["weight"]},
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "orthogonal"},
        {"init_lora_weights": False},
    ],
    ids=str,
)
def test_what_does_not_add_up_is_refused(asked: dict[str, Any], tmp_path: Path) -> None:
    model, _ = tiny.tiny_llama(tmp_path / "model")
    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", **asked)
    with pytest.raises(UserError, match=next(iter(asked))):
        new_endpoints(model, config)


def test_a_model_with_an_adapter_is_refused(tmp_path: Path) -> None:
    model, _ = tiny.tiny_llama(tmp_path / "model")
    for config in (None, tiny.lora_config()):
        with pytest.raises(UserError, match="Merge this one first"):
            new_endpoints(get_peft_model(model, tiny.lora_config()), config)


@pytest.mark.parametrize(
    "pattern",
    [
        {},
        {"rank_pattern": {"q_proj": 3}},
        {"alpha_pattern": {"q_proj": 9}},
        {"rank_pattern": {"q_proj": 3}, "alpha_pattern": {"down_proj": 1}},
        {"target_modules": ["q_proj", "embed_tokens"]},
    ],
    ids=str,
)
def test_what_is_saved_is_the_model_at_its_setting(pattern: dict[str, Any], tmp_path: Path) -> None:
    model, tokenizer = tiny.tiny_llama(tmp_path / "model")
    config = LoraConfig(
        **{"r": 2, "target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM", **pattern}
    )
    endpoints = new_endpoints(model, config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in endpoints.trained().parameters():
            if weight.requires_grad:
                weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    endpoints.save(tmp_path / "dial", tokenizer)
    again = load_endpoints(tmp_path / "dial", tiny.tiny_llama(tmp_path / "model")[0])
    for alpha in (0.0, 0.3, 1.0):
        endpoints.set_alpha(alpha)
        expected = logits(endpoints.model)
        again.set_alpha(alpha)
        torch.testing.assert_close(logits(again.model), expected, atol=1e-5, rtol=1e-4)
        for merged in (False, True):
            folder = tmp_path / f"{alpha}-{merged}"
            endpoints.save_at(alpha, folder, merged)
            base = tiny.tiny_llama(tmp_path / "model")[0]
            if merged:
                saved = AutoModelForCausalLM.from_pretrained(folder)
            else:
                saved = PeftModel.from_pretrained(base, str(folder))
            torch.testing.assert_close(logits(saved), expected, atol=1e-5, rtol=1e-4)


@full_and_lora
def test_the_best_checkpoint_is_gone_back_to_with_its_ends(lora: bool, tmp_path: Path) -> None:
    checked = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2}
    best = dial_of(
        tiny.config(
            tmp_path / "best",
            max_steps=8,
            learning_rate=0.1,
            load_best_model_at_end=True,
            **checked,
        ),
        tmp_path,
        lora,
    )
    losses = {
        record["step"]: record["eval_loss"]
        for record in best.state.log_history
        if "eval_loss" in record
    }
    steps = min(losses, key=losses.__getitem__)
    assert steps < 8, "the last is the best, and nothing to go back to"
    arguments = tiny.config(tmp_path / "short", max_steps=steps, learning_rate=0.1)
    short = dial_of(arguments, tmp_path, lora)
    for alpha in (0.0, 0.3, 1.0):
        for trainer in (best, short):
            dial_in(trainer).endpoints.set_alpha(alpha)
        torch.testing.assert_close(logits(best.model), logits(short.model))
