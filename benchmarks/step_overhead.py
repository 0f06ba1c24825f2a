"""What does an objective cost per optimizer step, beside plain `trl.SFTTrainer` on the same tokens?

    python benchmarks/step_overhead.py [--model smollm2] [--steps 60]

Trainers take single steps in turn, so that a noisy machine disturbs all alike: plain, one of every
objective, and plain once more, as a control that should read 1. Printed is the median over the
rounds of a step's time over the plain step's of its round, with the quartiles. Case I and a dial
carry safety rows beside the task rows, so the others are given the same rows, all of them as task
rows: the same tokens in every step. With `kl` a step also runs θ_s on the safety rows, forward.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
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
from trimtab.train.objectives.base import Objective
from trimtab.train.objectives.dial import DialObjective

AIM = 1.05
OBJECTIVES: dict[str, Callable[[], Objective]] = {
    "Case I": partial(AlignmentLossConstraint, 1.0),
    "Case II": partial(AlignmentParameterConstraint, penalty=0.1),
    "Case I, kl": partial(AlignmentLossConstraint, 1.0, target="kl"),
    "dial": DialObjective,
}
PLAIN, CONTROL = "plain", "plain again"


def rows(count: int, width: int, vocabulary: int, seed: int) -> Dataset:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, vocabulary, (count, width), generator=generator).tolist()
    labels = [[-100] * (width // 2) + row[width // 2 :] for row in ids]
    return Dataset.from_dict({"input_ids": ids, "labels": labels})


class Turns(TrainerCallback):
    """Lets trainers, each in a thread of its own, take one optimizer step at a time, in turn."""

    def __init__(self, turn: threading.Semaphore, next_turn: threading.Semaphore) -> None:
        self.turn, self.next_turn = turn, next_turn
        self.started, self.allocated = 0.0, 0
        self.seconds: list[float] = []
        self.kept_bytes = 0
        """What steps have left allocated on the device, such as the optimizer's moments."""
        self.transient_bytes = 0
        """The most that a step had allocated beside what was there before it."""

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.turn.acquire()
        finish_device()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self.allocated = allocated_bytes()
        self.started = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        finish_device()
        self.seconds.append(time.perf_counter() - self.started)
        if torch.cuda.is_available():
            peak = torch.cuda.max_memory_allocated() - self.allocated
            self.transient_bytes = max(self.transient_bytes, peak)
        self.kept_bytes += allocated_bytes() - self.allocated
        self.next_turn.release()


def allocated_bytes() -> int:
    """Of tensors on the GPU; 0 where there is none."""
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else 0


def finish_device() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def interleaved_seconds(trainers: list[SFTTrainer]) -> list[list[float]]:
    """The seconds of every step of every trainer, the first two steps left out."""
    return [clock.seconds[2:] for clock in interleaved(trainers)]


def interleaved(trainers: list[SFTTrainer]) -> list[Turns]:
    """Train all, a step of each in turn: what every one of them took."""
    turns = [threading.Semaphore(0) for _ in trainers]
    clocks = [Turns(turn, turns[(place + 1) % len(turns)]) for place, turn in enumerate(turns)]
    threads = []
    for trainer, clock in zip(trainers, clocks, strict=True):
        trainer.add_callback(clock)
        trainer.remove_callback(PrinterCallback)
        threads.append(threading.Thread(target=trainer.train))
        threads[-1].start()
    turns[0].release()
    for thread in threads:
        thread.join()
    return clocks


def measure(name: str, model_name: str, lora: bool, batch: int, width: int, steps: int) -> None:
    vocabulary = load_model(model_name)[0].config.vocab_size
    task, safety = (rows(batch * (steps + 1), width, vocabulary, seed) for seed in (0, 1))

    def trainer(kind: str) -> SFTTrainer:
        model, tokenizer = load_model(model_name)
        objective = OBJECTIVES[kind]() if kind in OBJECTIVES else None
        reads_both = objective is not None and objective.batch_roles(0) == "both"
        arguments = SFTConfig(
            output_dir=tempfile.mkdtemp(),
            per_device_train_batch_size=batch if reads_both else 2 * batch,
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
            "train_dataset": task if reads_both else concatenate_datasets([task, safety]),
            "processing_class": tokenizer,
            "peft_config": LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM")
            if lora
            else None,
        }
        if objective is None:
            return SFTTrainer(model, **settings)
        return SafetyAwareSFTTrainer(model, safety_dataset=safety, objective=objective, **settings)

    kinds = [PLAIN, *OBJECTIVES, CONTROL]
    seconds = dict(zip(kinds, interleaved_seconds([trainer(kind) for kind in kinds]), strict=True))
    print(f"\n{name}: plain step {statistics.median(seconds[PLAIN]):.3f} s, {steps - 2} rounds")
    for kind in kinds[1:]:
        ratios = [mine / plain for mine, plain in zip(seconds[kind], seconds[PLAIN], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        verdict = "within" if middle <= AIM else "misses"
        print(f"  {kind:11s} {middle:.3f} × plain  [{low:.3f}, {high:.3f}]  {verdict} {AIM}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=None, help="also this model, with LoRA: smollm2")
    parser.add_argument("--steps", type=int, default=60)
    arguments = parser.parse_args()
    quiet_libraries()
    with tempfile.TemporaryDirectory() as folder:
        tiny = Path(folder) / "tiny"
        save_tiny_llama([f"w{number}" for number in range(300)], tiny, seed=0)
        measure("tiny Llama, all weights", str(tiny), False, 32, 32, arguments.steps)
    if arguments.model:
        measure(
            f"{arguments.model}, LoRA rank 16",
            arguments.model,
            True,
            4,
            96,
            max(6, arguments.steps // 4),
        )
