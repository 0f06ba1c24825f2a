"""How many non-padding tokens a second does a training take in, beside `trl.SFTTrainer`?

    python benchmarks/throughput.py [--data ../shared/data] [--model smollm2]

The same model, rows, batch size, steps, seed and learning rate, in trainers that take single steps
in turn, so that a noisy machine disturbs all alike. Four tables for each model:

- at equal settings: both in float32, without gradient checkpointing and packing;
- `trl.SFTTrainer` as it comes, which on a CPU too means bfloat16 and gradient checkpointing; with
  each of these off; and ours as `trimtab train` runs it;
- ours with each of its ingredients switched off, one at a time;
- Case I beside `trl.SFTTrainer` on the same task and safety rows.

Printed are all tokens over all seconds, and the median over steps of a step's tokens a second over
the first trainer's, with the quartiles; the first two steps are left out. Where rows are ordered by
length, or those of two roles are mixed, a single step has other rows than the first trainer's.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, concatenate_datasets
from step_overhead import interleaved_seconds
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from trimtab import AlignmentLossConstraint, SafetyAwareSFTTrainer
from trimtab.config.data_source import DataSource, Lengths
from trimtab.config.experiment import Measuring, Training
from trimtab.data.encoding import encode
from trimtab.data.sources import read_rows
from trimtab.models import load_model, quiet_libraries, save_tiny_llama
from trimtab.train.settings import lora_config, sft_config

AIM = 1.3
TASK, SAFETY = "alpaca.jsonl.gz", "do-not-answer-gpt4.jsonl.gz"
LENGTHS = Lengths(prompt=256, response=256)


class Bench:
    """One model and its rows; trainers of them, with all that must be the same the same."""

    def __init__(self, model_name: str, data: Path, training: Training) -> None:
        self.model_name, self.training = model_name, training
        tokenizer = load_model(model_name)[1]
        count = training.batch_size * training.steps

        def rows(file: str) -> Dataset:
            file_rows = read_rows(DataSource(file), data)
            return encode(file_rows[:count], tokenizer, LENGTHS)

        self.task, self.safety = rows(TASK), rows(SAFETY)

    def theirs(self, joined: bool = False, **settings: Any) -> SFTTrainer:
        """TRL as it comes, but for `settings`; with `joined`, safety rows are task rows too."""
        model, tokenizer = self._model()
        training = self.training
        arguments = SFTConfig(
            output_dir=tempfile.mkdtemp(),
            per_device_train_batch_size=training.batch_size * (1 + joined),
            max_steps=training.steps,
            learning_rate=training.learning_rate,
            max_length=None,
            include_num_input_tokens_seen="non_padding",
            dataloader_pin_memory=torch.cuda.is_available(),
            use_cpu=not torch.cuda.is_available(),  # its bfloat16 refuses a CPU not asked for
            seed=0,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            **settings,
        )
        rows = concatenate_datasets([self.task, self.safety]) if joined else self.task
        return SFTTrainer(
            model,
            args=arguments,
            train_dataset=rows,
            processing_class=tokenizer,
            peft_config=lora_config(training),
        )

    def ours(self, joined: bool = False, **settings: Any) -> SFTTrainer:
        """As `trimtab train` runs it, but for `settings` of `Training`."""
        model, tokenizer = self._model()
        training = replace(self.training, **settings)
        return SafetyAwareSFTTrainer(
            model,
            args=sft_config(training, Measuring(), Path(tempfile.mkdtemp()), seed=0),
            train_dataset=self.task,
            safety_dataset=self.safety,
            objective=AlignmentLossConstraint(1.0) if joined else None,
            processing_class=tokenizer,
            peft_config=lora_config(training),
        )

    def _model(self) -> tuple[Any, Any]:
        model, tokenizer = load_model(self.model_name)
        return model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer


class Tokens(TrainerCallback):
    """The non-padding tokens of every step."""

    def __init__(self) -> None:
        self.seen = [0]

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.seen.append(state.num_input_tokens_seen)

    def of_last(self, steps: int) -> list[int]:
        return [after - before for before, after in pairwise(self.seen)][-steps:]


def compare(title: str, trainers: dict[str, SFTTrainer]) -> None:
    """A table of tokens a second, and ratios to the first trainer."""
    counts = {name: Tokens() for name in trainers}
    for name, trainer in trainers.items():
        trainer.add_callback(counts[name])
    spent = dict(zip(trainers, interleaved_seconds(list(trainers.values())), strict=True))
    tokens = {name: counts[name].of_last(len(spent[name])) for name in trainers}
    first = next(iter(trainers))

    def rates(name: str) -> list[float]:
        return [
            step_tokens / seconds
            for step_tokens, seconds in zip(tokens[name], spent[name], strict=True)
        ]

    def overall(name: str) -> float:
        return sum(tokens[name]) / sum(spent[name])

    print(f"\n{title}")
    print(f"  {'':<48} {'tokens/s':>9} {'× first':>8}   median of steps [quartiles]")
    for name in trainers:
        ratios = [mine / base for mine, base in zip(rates(name), rates(first), strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(
            f"  {name:<48} {overall(name):9.1f} {overall(name) / overall(first):8.2f}   "
            f"{middle:.2f} [{low:.2f}, {high:.2f}]",
            flush=True,
        )


def measure(name: str, bench: Bench, tables: Sequence[int]) -> None:
    """The tables asked for, of one model."""
    makers = {1: at_equal_settings, 2: as_it_comes, 3: ingredients, 4: case_1}
    for table in tables:
        makers[table](name, bench)


NO_CHECKPOINTS = {"bf16": False, "gradient_checkpointing": False}


def at_equal_settings(name: str, bench: Bench) -> None:
    compare(
        f"{name}: float32, no checkpointing, no packing, the same rows (aim: ours >= {AIM})",
        {
            "trl.SFTTrainer": bench.theirs(**NO_CHECKPOINTS),
            "ours": bench.ours(),
            "  length_bucketing off": bench.ours(length_bucketing=False),
        },
    )


def as_it_comes(name: str, bench: Bench) -> None:
    compare(
        f"{name}: as each comes, on the same task rows",
        {
            "trl.SFTTrainer as it comes": bench.theirs(),
            "  in float32": bench.theirs(bf16=False),
            "  without gradient checkpointing": bench.theirs(gradient_checkpointing=False),
            "ours": bench.ours(),
        },
    )


def ingredients(name: str, bench: Bench) -> None:
    by_length = bench.ours(length_bucketing=False)
    by_length.args.train_sampling_strategy = "group_by_length"
    compare(
        f"{name}: ours with one ingredient switched off",
        {
            "ours": bench.ours(),
            "  length_bucketing off": bench.ours(length_bucketing=False),
            "  length_bucketing off, rows grouped by length": by_length,
            "  gradient_checkpointing on": bench.ours(gradient_checkpointing=True),
            "  precision bfloat16": bench.ours(precision="bfloat16"),
        },
    )


def case_1(name: str, bench: Bench) -> None:
    compare(
        f"{name}: Case I beside trl.SFTTrainer on the same task and safety rows",
        {
            "trl.SFTTrainer in float32, no checkpointing": bench.theirs(True, **NO_CHECKPOINTS),
            "ours, Case I": bench.ours(True),
            "  length_bucketing off": bench.ours(True, length_bucketing=False),
        },
    )


def tiny_llama(folder: Path, data: Path) -> str:
    """A tiny Llama that knows the thousand commonest words of the rows."""
    rows = [row for file in (TASK, SAFETY) for row in read_rows(DataSource(file), data)]
    words = Counter(
        word for row in rows for word in (row.prompt[-1].content + " " + row.response).split()
    )
    save_tiny_llama([word for word, _ in words.most_common(1000)], folder, seed=0)
    return str(folder)


def main() -> None:
    """Every table, for a tiny Llama and, where it is asked for, a real model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--model", default=None, help="also this model, with LoRA: smollm2")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--model-steps", type=int, default=14)
    parser.add_argument("--tables", type=int, nargs="+", choices=(1, 2, 3, 4), default=[1, 2, 3, 4])
    parser.add_argument("--no-tiny", action="store_true", help="only the model of --model")
    arguments = parser.parse_args()
    missing = [name for name in (TASK, SAFETY) if not (arguments.data / name).exists()]
    if missing:
        print(f"throughput: skipped, {arguments.data} has no {missing[0]}. Give --data.")
        return
    quiet_libraries()
    if not arguments.no_tiny:
        with tempfile.TemporaryDirectory() as folder:
            tiny = tiny_llama(Path(folder) / "tiny", arguments.data)
            bench = Bench(tiny, arguments.data, Training(arguments.steps, 8))
            measure("tiny Llama", bench, arguments.tables)
    if arguments.model:
        training = Training(arguments.model_steps, 4, lora_rank=16)
        bench = Bench(arguments.model, arguments.data, training)
        measure(f"{arguments.model}, LoRA rank 16", bench, arguments.tables)


if __name__ == "__main__":
    main()
