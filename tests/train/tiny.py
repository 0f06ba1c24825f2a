"""A tiny model, rows for it, and one training run of a few steps; also a script for `torchrun`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

from trimtab import AlignmentLossConstraint, AlignmentParameterConstraint, SafetyAwareSFTTrainer
from trimtab.config.experiment import Dial
from trimtab.models import load_model, save_tiny_llama
from trimtab.train.objectives.constraints import Constraint, Target
from trimtab.train.objectives.dial import DialTrainer

WORDS = [f"w{number}" for number in range(30)]

CONSTRAINTS: dict[str, Constraint] = {
    "loss-penalty": AlignmentLossConstraint(penalty=0.7),
    "kl-penalty": AlignmentLossConstraint(penalty=0.7, target="kl"),
    "parameter-penalty": AlignmentParameterConstraint(penalty=0.3),
    "parameter-radius": AlignmentParameterConstraint(radius=0.05),
    "loss-budget": AlignmentLossConstraint(budget=0.05),
    "parameter-budget": AlignmentParameterConstraint(budget=1e-4),
}


def tiny_llama(folder: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    if not folder.exists():
        save_tiny_llama(WORDS, folder, seed=0)
    return load_model(str(folder))


def rows(count: int, seed: int) -> Dataset:
    """Rows whose responses differ in length, so that means over rows and over tokens differ."""
    generator = torch.Generator().manual_seed(seed)

    def words(length: int) -> list[int]:
        return torch.randint(3, 3 + len(WORDS), (length,), generator=generator).tolist()

    records = []
    for number in range(count):
        prompt, response = words(2 + number % 3), words(1 + (number * seed) % 5)
        records.append({"input_ids": prompt + response, "labels": [-100] * len(prompt) + response})
    return Dataset.from_list(records)


def config(folder: Path, **settings: Any) -> SFTConfig:
    return SFTConfig(
        **{
            "output_dir": str(folder),
            "use_cpu": True,
            "per_device_train_batch_size": 8,
            "max_steps": 4,
            "learning_rate": 1e-2,
            "max_grad_norm": 0.0,
            "lr_scheduler_type": "constant",
            "gradient_checkpointing": False,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "bf16": False,
            "seed": 3,
            **settings,
        }
    )


def trained(
    constraint: Constraint | None,
    arguments: SFTConfig,
    folder: Path,
    lora: bool = False,
    resume: bool = False,
) -> SafetyAwareSFTTrainer:
    model, tokenizer = tiny_llama(folder / "model")
    trainer = SafetyAwareSFTTrainer(
        model,
        args=arguments,
        train_dataset=rows(64, seed=2),
        safety_dataset=rows(40, seed=5),
        constraint=constraint,
        processing_class=tokenizer,
        peft_config=lora_config() if lora else None,
    )
    trainer.train(resume_from_checkpoint=resume or None)
    return trainer


def trained_dial(
    arguments: SFTConfig,
    folder: Path,
    lora: bool = False,
    resume: bool = False,
    safety_target: Target = "response",
) -> DialTrainer:
    model, tokenizer = tiny_llama(folder / "model")
    trainer = DialTrainer(
        model,
        Dial(),
        args=arguments,
        train_dataset=rows(64, seed=2),
        safety_dataset=rows(40, seed=5),
        safety_target=safety_target,
        processing_class=tokenizer,
        peft_config=lora_config() if lora else None,
    )
    trainer.train(resume_from_checkpoint=resume or None)
    return trainer


def trained_plainly(arguments: SFTConfig, folder: Path, lora: bool = False) -> SFTTrainer:
    model, tokenizer = tiny_llama(folder / "model")
    trainer = SFTTrainer(
        model,
        args=arguments,
        train_dataset=rows(64, seed=2),
        processing_class=tokenizer,
        peft_config=lora_config() if lora else None,
    )
    trainer.train()
    return trainer


def lora_config() -> LoraConfig:
    return LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")


def weights(trainer: SFTTrainer) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}


def endpoints(trainer: DialTrainer) -> dict[str, torch.Tensor]:
    """What a dial trained: the weights of both endpoints, or of both adapters."""
    return {
        name: weight.detach().clone()
        for name, weight in trainer.endpoints.trained().named_parameters()
    }


if __name__ == "__main__":
    out, batch_size = Path(sys.argv[1]), int(sys.argv[2])
    settings = {"optim": "sgd", "learning_rate": 0.5, "max_steps": 2}
    arguments = config(out / "run", per_device_train_batch_size=batch_size, **settings)
    asked_for_dial = sys.argv[3:] == ["dial"]
    for lora in (False, True):
        if asked_for_dial:
            dial = trained_dial(arguments, out, lora)
            if dial.accelerator.is_main_process:
                torch.save(endpoints(dial), out / f"dial-{lora}.pt")
            continue
        for name, constraint in CONSTRAINTS.items():
            trainer = trained(constraint, arguments, out, lora)
            if trainer.accelerator.is_main_process:
                torch.save(weights(trainer), out / f"{name}-{lora}.pt")
