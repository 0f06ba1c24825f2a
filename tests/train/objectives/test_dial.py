"""Facts about a dial in training: its endpoints, its gradient, and what it does not depend on."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, PeftModel, get_peft_model
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from tests.train import tiny
from trimtab.config.experiment import Dial
from trimtab.errors import UserError
from trimtab.measure.distance import distance
from trimtab.train.objectives.constraints import Target
from trimtab.train.objectives.dial import DialTrainer
from trimtab.train.objectives.endpoints import load_endpoints, new_endpoints

full_and_lora = pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])

IDS = torch.arange(3, 15).reshape(2, 6)


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], by: float) -> None:
    assert one.keys() == other.keys()
    for name, weight in one.items():
        torch.testing.assert_close(weight, other[name], atol=by, rtol=by, msg=name)


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


@full_and_lora
def test_every_setting_of_a_new_dial_is_the_aligned_model(lora: bool, tmp_path: Path) -> None:
    model, _ = tiny.tiny_llama(tmp_path / "model")
    start = logits(model)
    endpoints = new_endpoints(model, tiny.lora_config() if lora else None)
    for alpha in (0.0, 0.37, 1.0):
        endpoints.set_alpha(alpha)
        torch.testing.assert_close(logits(endpoints.model), start, atol=0, rtol=0)


@full_and_lora
def test_a_dial_is_not_plain_sft(lora: bool, tmp_path: Path) -> None:
    dial = tiny.trained_dial(tiny.config(tmp_path), tmp_path, lora)
    dial.endpoints.set_alpha(1.0)
    plain = tiny.trained_plainly(tiny.config(tmp_path), tmp_path, lora)
    assert (logits(dial.model) - logits(plain.model)).abs().max() > 1e-3


def test_gradient_moves_the_task_end_by_alpha_and_the_safe_end_by_the_rest(tmp_path: Path) -> None:
    model, _ = tiny.tiny_llama(tmp_path / "model")
    start = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    arguments = tiny.config(tmp_path, optim="sgd", learning_rate=1.0, max_steps=1, seed=2)
    trainer = tiny.trained_dial(arguments, tmp_path)
    alpha, penalty = trainer.alpha, trainer.current_penalty()
    assert 0.05 < alpha < 0.95
    order = next(iter(trainer.get_train_dataloader().batch_sampler))
    assert trainer.safety_stream is not None
    safety = trainer.safety_stream.batch(0)
    task = [tiny.rows(64, seed=2)[index] for index in order]

    def mean_over_tokens(ids: list[torch.Tensor], labels: list[torch.Tensor]) -> torch.Tensor:
        losses = [
            cross_entropy(model(row[None]).logits[0, :-1], label[1:], reduction="none")
            for row, label in zip(ids, labels, strict=True)
        ]
        return torch.cat(losses)[torch.cat([label[1:] != -100 for label in labels])].mean()

    task_loss = mean_over_tokens(
        [torch.tensor(row["input_ids"]) for row in task],
        [torch.tensor(row["labels"]) for row in task],
    )
    safety_loss = mean_over_tokens(list(safety["input_ids"]), list(safety["labels"]))
    ((task_loss + penalty * safety_loss) / (1 + penalty)).backward()
    endpoints = tiny.endpoints(trainer)
    for name, weight in model.named_parameters():
        for end, share in (("task", alpha), ("safe", 1 - alpha)):
            step = start[name] - endpoints[f"{end}.{name}"]
            torch.testing.assert_close(share * weight.grad, step, atol=2e-6, rtol=1e-5, msg=name)


@full_and_lora
def test_dial_does_not_depend_on_accumulation(lora: bool, tmp_path: Path) -> None:
    settings = {"optim": "sgd", "learning_rate": 0.5, "max_steps": 3}
    runs = [
        tiny.trained_dial(
            tiny.config(
                tmp_path,
                per_device_train_batch_size=rows,
                gradient_accumulation_steps=16 // rows,
                **settings,
            ),
            tmp_path,
            lora,
        )
        for rows in (16, 4)
    ]
    assert_same(*map(tiny.endpoints, runs), by=2e-6)


@full_and_lora
def test_resumed_dial_has_the_same_ends(lora: bool, tmp_path: Path) -> None:
    run = tmp_path / "run"
    through = tiny.trained_dial(
        tiny.config(run, max_steps=9, save_strategy="steps", save_steps=3), tmp_path, lora
    )
    for later in (6, 9):
        shutil.rmtree(run / f"checkpoint-{later}")
    resumed = tiny.trained_dial(tiny.config(run, max_steps=9), tmp_path, lora, resume=True)
    assert_same(tiny.endpoints(through), tiny.endpoints(resumed), by=0.0)


@pytest.fixture(scope="module")
def dials_of_two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two-processes")
    tiny.tiny_llama(folder / "model")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node=2", tiny.__file__, str(folder), "8", "dial"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return folder


@full_and_lora
def test_dial_does_not_depend_on_process_count(
    lora: bool, dials_of_two_processes: Path, tmp_path: Path
) -> None:
    settings = {"optim": "sgd", "learning_rate": 0.5, "max_steps": 2}
    arguments = tiny.config(tmp_path / "run", per_device_train_batch_size=16, **settings)
    one = tiny.endpoints(tiny.trained_dial(arguments, tmp_path, lora))
    two = torch.load(dials_of_two_processes / f"dial-{lora}.pt")
    assert_same(one, two, by=2e-6)


@full_and_lora
def test_a_saved_setting_is_one_plain_model_with_the_same_logits(
    lora: bool, tmp_path: Path
) -> None:
    trainer = tiny.trained_dial(tiny.config(tmp_path, max_steps=12), tmp_path, lora)
    trainer.endpoints.save(tmp_path / "dial", trainer.processing_class)
    aligned, _ = tiny.tiny_llama(tmp_path / "model")
    endpoints = load_endpoints(tmp_path / "dial", aligned)
    for alpha in (0.0, 0.3, 1.0):
        trainer.endpoints.set_alpha(alpha)
        expected = logits(trainer.endpoints.model)
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
    trainer = tiny.trained_dial(tiny.config(tmp_path, max_steps=12), tmp_path, lora=True)
    aligned, _ = tiny.tiny_llama(tmp_path / "model")
    trainer.endpoints.set_alpha(0.4)
    by_gram = distance(trainer.endpoints.model, aligned)
    trainer.endpoints.save_at(0.4, tmp_path / "merged", merged=True)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert by_gram == pytest.approx(distance(merged, aligned), rel=1e-4)


@pytest.mark.parametrize("kind", ["use_dora", "use_rslora"])
def test_adapters_that_do_not_add_up_are_refused(kind: str, tmp_path: Path) -> None:
    model, _ = tiny.tiny_llama(tmp_path / "model")
    with pytest.raises(UserError, match="plain LoRA"):
        DialTrainer(
            model, Dial(), peft_config=LoraConfig(target_modules="all-linear", **{kind: True})
        )


@full_and_lora
def test_a_dial_may_ask_for_the_aligned_distribution_which_its_safe_end_then_keeps(
    lora: bool, tmp_path: Path
) -> None:
    start, _ = tiny.tiny_llama(tmp_path / "model")

    def strayed(target: Target) -> float:
        """Mean over the safety rows of KL(P_θs ‖ P_θ(0)) at their last prefix, in nats."""
        settings = tiny.config(tmp_path / "run", max_steps=20)
        trainer = tiny.trained_dial(settings, tmp_path, lora, safety_target=target)
        trainer.endpoints.set_alpha(0.0)
        trainer.endpoints.model.eval()
        found = []
        for row in tiny.rows(40, seed=5):
            ids = torch.tensor([row["input_ids"][:-1]])
            with torch.no_grad():
                before, after = (
                    model(input_ids=ids).logits[0, -1].log_softmax(-1)
                    for model in (start, trainer.endpoints.model)
                )
            found.append(float((before.exp() * (before - after)).sum()))
        return sum(found) / len(found)

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
        here = logits(endpoints.model)
        again.set_alpha(alpha)
        torch.testing.assert_close(logits(again.model), here, atol=1e-5, rtol=1e-4)
        for merged in (False, True):
            folder = tmp_path / f"{alpha}-{merged}"
            endpoints.save_at(alpha, folder, merged)
            base = tiny.tiny_llama(tmp_path / "model")[0]
            if merged:
                saved = AutoModelForCausalLM.from_pretrained(folder)
            else:
                saved = PeftModel.from_pretrained(base, str(folder))
            torch.testing.assert_close(logits(saved), here, atol=1e-5, rtol=1e-4)
