"""What does it cost to measure on held-out rows while training, at the default of `Measuring`?

    python benchmarks/live.py [--model smollm2] [--steps 200] [--repeats 9] [--out FILE]

Whole trainings in Case I take turns, so that a noisy machine disturbs all alike: without
measurements, with those of the default (θ_s before the first step, then at a quarter, half and
three quarters, on task, safety and original rows), and without once more, as a control that should
read 1. Who comes first changes from round to round. Written are the quartiles over the rounds of a
training's seconds over those of its round without measurements.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from datasets import Dataset
from step_overhead import finish_device, rows
from transformers.trainer_callback import PrinterCallback

from trimtab import AlignmentLossConstraint, SafetyAwareSFTTrainer
from trimtab.config.experiment import Measuring, Training
from trimtab.measure.losses import HeldOutRows
from trimtab.models import load_model, quiet_libraries, save_tiny_llama
from trimtab.results.files import write_atomically
from trimtab.results.metrics import Role
from trimtab.train.live import LiveMeasurement
from trimtab.train.settings import lora_config, sft_config

AIM = 1.05
OFF = Measuring(every=0)
KINDS = {"without": OFF, "default": Measuring(), "control": OFF}
HELD_OUT_ROWS = 200


@dataclass(frozen=True)
class Bench:
    """One model, and rows of one width for every role."""

    model: str
    training: Training
    width: int

    def seconds(self, measuring: Measuring) -> float:
        """Of one training, from the measurement of θ_s to its last step."""
        model, tokenizer = load_model(self.model)
        training = self.training
        task, safety = (
            self._rows(training.batch_size * training.steps, seed, model.config.vocab_size)
            for seed in (0, 1)
        )
        roles: tuple[Role, ...] = ("task", "safety", "original")
        held_out = {
            role: HeldOutRows(self._rows(HELD_OUT_ROWS, 2 + place, model.config.vocab_size))
            for place, role in enumerate(roles)
        }
        trainer = SafetyAwareSFTTrainer(
            model,
            args=sft_config(training, measuring, Path(tempfile.mkdtemp()), seed=0),
            train_dataset=task,
            safety_dataset=safety,
            objective=AlignmentLossConstraint(1.0),
            processing_class=tokenizer,
            peft_config=lora_config(training),
        )
        trainer.remove_callback(PrinterCallback)
        finish_device()
        started = time.perf_counter()
        live = LiveMeasurement(trainer, held_out, measuring, print)
        trainer.add_callback(live)
        trainer.train()
        finish_device()
        if bool(live.steps) != (measuring is not OFF):
            raise SystemExit(f"{training.steps} steps are too few for the default to measure in.")
        return time.perf_counter() - started

    def _rows(self, count: int, seed: int, vocabulary: int) -> Dataset:
        return rows(count, self.width, vocabulary, seed)

    def ratios(self, repeats: int) -> dict[str, list[float]]:
        """Of each kind, a ratio a round."""
        by_kind: dict[str, list[float]] = {kind: [] for kind in KINDS if kind != "without"}
        self.seconds(OFF)  # what is only slow the first time
        for number in range(repeats):
            turn = number % len(KINDS)
            order = [*KINDS, *KINDS][turn : turn + len(KINDS)]
            spent = {kind: self.seconds(KINDS[kind]) for kind in order}
            for kind, ratios in by_kind.items():
                ratios.append(spent[kind] / spent["without"])
        return by_kind


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=None, help="also this model, with LoRA: smollm2")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "live.json")
    arguments = parser.parse_args()
    quiet_libraries()
    with tempfile.TemporaryDirectory() as folder:
        tiny = Path(folder) / "tiny"
        save_tiny_llama([f"w{number}" for number in range(300)], tiny, seed=0)
        benches = {"tiny Llama, all weights": Bench(str(tiny), Training(steps=arguments.steps), 32)}
        if arguments.model:
            training = Training(steps=arguments.steps, lora_rank=16)
            benches[f"{arguments.model}, LoRA rank 16"] = Bench(arguments.model, training, 96)
        record: dict[str, object] = {
            "machine": f"{platform.machine()}, {os.cpu_count()} CPUs"
            + (f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""),
            "load": list(os.getloadavg()),
            "repeats": arguments.repeats,
        }
        for name, bench in benches.items():
            by_kind = bench.ratios(arguments.repeats)
            quartiles = {
                kind: statistics.quantiles(ratios, n=4) for kind, ratios in by_kind.items()
            }
            settings = {key: asdict(bench.training)[key] for key in ("steps", "batch_size")}
            record[name] = {**settings, "width": bench.width, "× without": quartiles}
            print(name)
            for kind, (low, middle, high) in quartiles.items():
                print(f"  {kind:9s} {middle:.3f} × without  [{low:.3f}, {high:.3f}]  aim {AIM}")
    write_atomically(arguments.out, json.dumps(record, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
