"""What does a constraint cost per optimizer step, beside plain `trl.SFTTrainer` on the same tokens?

    python benchmarks/step_overhead.py [--model smollm2] [--steps 12]

Three trainers, plain, Case I and Case II, take blocks of steps in turn, so that a noisy machine
disturbs all alike; the ratio of each block's time per step to the plain block next to it is
printed as its median and quartiles. Case I carries safety rows beside the task rows, so the plain
trainer is given the same rows, all of them as task rows: the same tokens in every step.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, concatenate_datasets
from peft import LoraConfig
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback
from trl import SFTConfig, SFTTrainer

from trimtab import (
    AlignmentLossConstraint,
    AlignmentParameterConstraint,
    SafetyAwareSFTTrainer,
)
from trimtab.models import load_model, quiet_libraries, save_tiny_llama

AIM = 1.05
ROUNDS = 7


def rows(count: int, width: int, vocabulary: int, seed: int) -> Dataset:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, vocabulary, (count, width), generator=generator).tolist()
    labels = [[-100] * (width // 2) + row[width // 2 :] for row in ids]
    return Dataset.from_dict({"input_ids": ids, "labels": labels})


class StepTimes(TrainerCallback):
    def __init__(self) -> None:
        self.started = 0.0
        self.seconds: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.started = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(time.perf_counter() - self.started)


def seconds_per_step(make: Callable[[], SFTTrainer]) -> float:
    trainer = make()
    times = StepTimes()
    trainer.add_callback(times)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return statistics.median(times.seconds[2:])


def measure(name: str, model_name: str, lora: bool, batch: int, width: int, steps: int) -> None:
    vocabulary = load_model(model_name)[0].config.vocab_size
    task, safety = (rows(batch * (steps + 1), width, vocabulary, seed) for seed in (0, 1))

    def trainer(kind: str) -> SFTTrainer:
        model, tokenizer = load_model(model_name)
        whole = kind == "case one"
        arguments = SFTConfig(
            output_dir=tempfile.mkdtemp(),
            per_device_train_batch_size=batch if whole else 2 * batch,
            max_steps=steps,
            learning_rate=1e-4,
            max_grad_norm=0.0,
            gradient_checkpointing=False,
            max_length=None,
            bf16=False,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        settings: dict[str, Any] = {
            "args": arguments,
            "train_dataset": task if whole else concatenate_datasets([task, safety]),
            "processing_class": tokenizer,
            "peft_config": LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM")
            if lora
            else None,
        }
        if kind == "plain":
            return SFTTrainer(model, **settings)
        constraint = (
            AlignmentLossConstraint(1.0) if whole else AlignmentParameterConstraint(penalty=0.1)
        )
        return SafetyAwareSFTTrainer(
            model, safety_dataset=safety, constraint=constraint, **settings
        )

    ratios: dict[str, list[float]] = {"case one": [], "case two": []}
    plain_seconds = []
    for _ in range(ROUNDS):
        for kind, found in ratios.items():
            plain = seconds_per_step(lambda: trainer("plain"))
            plain_seconds.append(plain)
            found.append(seconds_per_step(lambda kind=kind: trainer(kind)) / plain)
    print(f"{name}: plain step {statistics.median(plain_seconds):.3f} s")
    for kind, found in ratios.items():
        low, middle, high = statistics.quantiles(found, n=4)
        verdict = "within" if middle <= AIM else "misses"
        print(f"  {kind:9s} {middle:.3f} × plain  [{low:.3f}, {high:.3f}]  {verdict} {AIM}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=None, help="also this model, with LoRA: smollm2")
    parser.add_argument("--steps", type=int, default=30)
    given = parser.parse_args()
    quiet_libraries()
    with tempfile.TemporaryDirectory() as folder:
        tiny = Path(folder) / "tiny"
        save_tiny_llama([f"w{number}" for number in range(300)], tiny, seed=0)
        measure("tiny Llama, all weights", str(tiny), False, 32, 32, given.steps)
    if given.model:
        measure(f"{given.model}, LoRA rank 16", given.model, True, 4, 96, max(6, given.steps // 5))
