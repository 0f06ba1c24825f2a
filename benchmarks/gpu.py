"""Speed and memory on one GPU in bfloat16, beside a plain training of the same tokens.

    python benchmarks/gpu.py [--seconds 540] [--steps 12] [--models smollm2 llama-2-7b llama-3.1-8b]

SmolLM2 has its weights; of Llama-2-7B and Llama-3.1-8B there are the shapes, with random weights,
which is all that the time of a step and its memory depend on. Each trains a LoRA of rank 16 with
gradient checkpointing, eight rows a step or as many tokens in packs, of random words.

A case is a pair of trainers that take steps in turn: ours at plain fine-tuning beside
`trl.SFTTrainer` at the same settings, and each objective beside ours at plain fine-tuning on the
same task and safety rows. Told are tokens a second, padding not counted, the median over steps of
the second one's over the first one's, with the quartiles, and the most bytes that each had
allocated.

Every case is a process of its own and a line of benchmarks/results/gpu.jsonl, written once it is
there. No case is begun that would end after --seconds if it took as long as the longest so far; the
same command goes on with those that are left. Without a GPU only `--models tiny` runs, to see that
all of it works; nothing of it is kept. The exact frontier is not here: its arrays take
milliseconds on one core.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, concatenate_datasets
from step_overhead import OBJECTIVES, PLAIN, allocated_bytes, interleaved
from throughput import Tokens
from transformers import LlamaConfig, LlamaForCausalLM
from trl import SFTTrainer

from trimtab import SafetyAwareSFTTrainer
from trimtab.config.experiment import Measuring, Training
from trimtab.models import load_model, quiet_libraries, save_tiny_llama
from trimtab.train.settings import lora_config, sft_config

RESULTS = Path(__file__).parent / "results" / "gpu.jsonl"
TRL = "trl.SFTTrainer"
BATCH = 4
FIRST_STEPS = 2
"""Left out: they allocate, and choose kernels."""


@dataclass(frozen=True)
class Shape:
    """A Llama without its weights, and the length of a row."""

    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    key_value_heads: int
    width: int = 1024


SHAPES = {
    "tiny": Shape(300, 64, 128, 2, 4, 4, 48),
    "llama-2-7b": Shape(32_000, 4096, 11_008, 32, 32, 32),
    "llama-3.1-8b": Shape(128_256, 4096, 14_336, 32, 32, 8),
}
MODELS = ("smollm2", "llama-2-7b", "llama-3.1-8b")


@dataclass(frozen=True)
class Case:
    """Two trainers of the same tokens, the first of which the other is compared with."""

    model: str
    first: str
    second: str
    is_packed: bool
    steps: int


def cases(models: list[str], steps: int) -> Iterator[Case]:
    """Those that say most first."""
    pairs = [(TRL, PLAIN), *((PLAIN, name) for name in OBJECTIVES)]
    for is_packed in (False, True):
        for pair in pairs:
            for model in models:
                yield Case(model, *pair, is_packed, steps)


class Bench:
    """The trainers of a case, on rows of random words whose lengths differ by up to eight times."""

    def __init__(self, case: Case) -> None:
        self.case = case
        shape = SHAPES.get(case.model)
        self.width = shape.width if shape else SHAPES["llama-2-7b"].width
        self.training = Training(
            steps=case.steps,
            batch_size=BATCH,
            lora_rank=16,
            precision="bfloat16",
            gradient_checkpointing=True,
            packing=self.width if case.is_packed else None,
        )

    def trainer(self, name: str) -> SFTTrainer:
        """TRL's, ours, or ours with an objective; all see as many rows of the same two sets."""
        model, tokenizer = self._model()
        task, safety = (self._rows(seed, model.config.vocab_size) for seed in (0, 1))
        objective = OBJECTIVES[name]() if name in OBJECTIVES else None
        reads_both = objective is not None and objective.batch_roles(0) == "both"
        training = self.training if reads_both else replace(self.training, batch_size=2 * BATCH)
        args = sft_config(training, Measuring(), Path(tempfile.mkdtemp()), seed=0)
        settings: dict[str, Any] = {
            "args": args,
            "train_dataset": task if reads_both else concatenate_datasets([task, safety]),
            "processing_class": tokenizer,
            "peft_config": lora_config(training),
        }
        if name == TRL:
            return SFTTrainer(model, **settings)
        return SafetyAwareSFTTrainer(model, safety_dataset=safety, objective=objective, **settings)

    def _model(self) -> tuple[Any, Any]:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        shape = SHAPES.get(self.case.model)
        if shape is None:
            model, tokenizer = load_model(self.case.model)
            return model.to(device=device, dtype=torch.bfloat16), tokenizer
        config = LlamaConfig(
            vocab_size=shape.vocabulary,
            hidden_size=shape.hidden,
            intermediate_size=shape.intermediate,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.key_value_heads,
            max_position_embeddings=8192,
            pad_token_id=0,
            eos_token_id=1,
        )
        with torch.device(device):
            torch.manual_seed(0)
            model = LlamaForCausalLM._from_config(config, dtype=torch.bfloat16)
        with tempfile.TemporaryDirectory() as folder:
            save_tiny_llama(["word"], Path(folder), seed=0)
            return model, load_model(folder)[1]

    def _rows(self, seed: int, vocabulary: int) -> Dataset:
        generator = torch.Generator().manual_seed(seed)
        count = 2 * BATCH * (self.case.steps + 1) * (4 if self.case.is_packed else 1)
        lengths = torch.randint(self.width // 8, self.width + 1, (count,), generator=generator)
        ids = [
            torch.randint(5, vocabulary, (int(length),), generator=generator).tolist()
            for length in lengths
        ]
        labels = [[-100] * (len(row) // 4) + row[len(row) // 4 :] for row in ids]
        return Dataset.from_dict({"input_ids": ids, "labels": labels})


def measured(case: Case) -> dict[str, Any]:
    """Tokens a second and bytes of both, and the ratio of the second one's to the first one's."""
    bench = Bench(case)
    trainers: list[SFTTrainer] = []
    resident: list[int] = []
    for name in (case.first, case.second):
        before = allocated_bytes()
        trainers.append(bench.trainer(name))
        resident.append(allocated_bytes() - before)
    counts = [Tokens() for _ in trainers]
    for trainer, count in zip(trainers, counts, strict=True):
        trainer.add_callback(count)
    clocks = interleaved(trainers)
    rates = [
        [
            tokens / seconds
            for tokens, seconds in zip(
                count.of_last(len(clock.seconds)), clock.seconds, strict=True
            )
        ][FIRST_STEPS:]
        for count, clock in zip(counts, clocks, strict=True)
    ]
    ratios = [second / first for first, second in zip(*rates, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    is_cuda = torch.cuda.is_available()
    return {
        **asdict(case),
        "tokens_per_second": [
            round(statistics.median(trainer_rates), 1) for trainer_rates in rates
        ],
        "ratio": round(middle, 4),
        "ratio_quartiles": [round(low, 4), round(high, 4)],
        "peak_bytes": [
            resident_bytes + clock.kept_bytes + clock.transient_bytes
            for resident_bytes, clock in zip(resident, clocks, strict=True)
        ],
        "device": torch.cuda.get_device_name() if is_cuda else "cpu",
        "torch": torch.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=540.0)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--models", nargs="+", choices=[*MODELS, "tiny"], default=list(MODELS))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case is not None:
        quiet_libraries()
        print(json.dumps(measured(Case(**json.loads(arguments.case)))))
        return
    if not torch.cuda.is_available() and arguments.models != ["tiny"]:
        sys.exit("gpu: there is no GPU here. Give --models tiny to see that it works.")
    run_all(list(cases(arguments.models, arguments.steps)), arguments.results, arguments.seconds)


def run_all(all_cases: list[Case], results: Path, seconds: float) -> None:
    """Measure what is left, and stop before the time is up."""
    lines = results.read_text("utf-8").splitlines() if results.exists() else []
    recorded = [{key: json.loads(line)[key] for key in asdict(all_cases[0])} for line in lines]
    started, longest = time.monotonic(), 0.0
    for case in all_cases:
        begun = time.monotonic()
        if asdict(case) in recorded:
            continue
        if begun - started + longest > seconds:
            print("gpu: the time is up; the same command goes on.")
            return
        command = [sys.executable, __file__, "--case", json.dumps(asdict(case))]
        process = subprocess.run(command, capture_output=True, text=True)
        longest = max(longest, time.monotonic() - begun)
        if process.returncode:
            reason = (process.stderr.strip() or "no reason given").splitlines()[-1]
            print(f"gpu: failed, {case}: {reason}", flush=True)
            continue
        line = process.stdout.strip().splitlines()[-1]
        print(line, flush=True)
        if json.loads(line)["device"] != "cpu" or results != RESULTS:
            results.parent.mkdir(parents=True, exist_ok=True)
            with results.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
    print(f"gpu: all {len(all_cases)} cases are there.")


if __name__ == "__main__":
    main()
