"""Is the memory that `--dry-run` tells of the memory that a training takes?

    python benchmarks/memory.py [--data ../shared/data] [--write]

Each line is a process of its own, forked from one that has trained tiny models, that trains and
measures one point, in two steps: what `runner.peak_memory` says of it, and the bytes of all
tensors that were alive at the peak, from before the model was loaded. That is what a GPU's
allocator counts. The resident memory of a process on a CPU is no measure of it: it grows by half
as much again, most likely by what malloc was given back and keeps, and by what products work in.
Without --data SmolLM2 is left out. `--write` keeps the numbers in benchmarks/results/memory.json,
which a test holds to 0.8 to 1.25, and puts them into docs/large-models.md.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import weakref
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from trimtab.report.markdown import markdown_table, replace_between

RESULTS = Path(__file__).parent / "results" / "memory.json"
PAGE = Path(__file__).parents[1] / "docs" / "large-models.md"
MARK = "predicted and measured memory"

WORDS = [f"w{number}" for number in range(8000)]
ROWS = 32


@dataclass(frozen=True)
class Case:
    """A model's shape (SmolLM2 where there is none), how it is held, and what is trained.

    `rows` of the task are in a batch, and in Case I as many safety rows, all of `tokens`.
    """

    hidden: int | None = 384
    layers: int | None = 6
    dtype: str = "float32"
    quantization: str = "none"
    precision: str = "float32"
    rank: int | None = 16
    checkpointing: bool = True
    constraint: str = "Case I"
    rows: int = 2
    tokens: int = 256

    @property
    def model(self) -> str:
        """The model in words."""
        return f"Llama {self.layers} × {self.hidden}" if self.hidden else "SmolLM2-135M"

    @property
    def held(self) -> str:
        """What the weights are held in, and computed in where that is another."""
        storage = (
            self.dtype if self.quantization == "none" else f"{self.dtype} + {self.quantization}"
        )
        return storage if self.precision == "float32" else f"{storage}, {self.precision} precision"

    @property
    def trained(self) -> str:
        """What is trained, and how."""
        weights = "all weights" if self.rank is None else f"LoRA {self.rank}"
        return f"{weights}, checkpointing" if self.checkpointing else weights


NF4 = Case(dtype="bfloat16", quantization="nf4")
CASES = (
    Case(),
    Case(dtype="bfloat16"),
    NF4,
    replace(NF4, precision="bfloat16"),
    Case(checkpointing=False),
    Case(checkpointing=False, dtype="bfloat16"),
    replace(NF4, checkpointing=False),
    replace(NF4, checkpointing=False, precision="bfloat16"),
    Case(checkpointing=False, rows=4),
    Case(checkpointing=False, tokens=128),
    Case(rank=None),
    Case(rank=None, checkpointing=False),
    Case(rank=None, checkpointing=False, precision="bfloat16"),
    Case(constraint="Case II", checkpointing=False),
    Case(constraint="Case II", rank=None),
    Case(constraint="kl"),
    Case(constraint="kl", rank=None),
    Case(hidden=1024, layers=3, checkpointing=False),
    Case(hidden=1024, layers=3, rank=None),
    replace(NF4, hidden=1024, layers=3),
)
SMOLLM2 = (
    Case(hidden=None, layers=None, rows=1),
    Case(hidden=None, layers=None, rows=1, dtype="bfloat16"),
    Case(hidden=None, layers=None, rows=1, dtype="bfloat16", quantization="nf4"),
    Case(hidden=None, layers=None, rows=1, rank=None),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    cases = (*CASES, *(SMOLLM2 if arguments.data else ()))
    torch.set_num_threads(1)  # a forked process has none of its parent's, and would wait for them
    for warm in (Case(), NF4):
        measured(replace(warm, hidden=96, layers=2), arguments.data)
    print(*COLUMNS, sep=" | ", flush=True)
    lines = []
    with get_context("fork").Pool(2, maxtasksperchild=1) as processes:
        for case, result in zip(
            cases, processes.imap(partial(measured, data=arguments.data), cases), strict=True
        ):
            lines.append(result)
            print(*row(case, result), sep=" | ", flush=True)
    if arguments.write:
        records = [asdict(case) | result for case, result in zip(cases, lines, strict=True)]
        RESULTS.write_text(json.dumps(records, indent=1) + "\n")
        table = markdown_table(COLUMNS, map(row, cases, lines))
        replace_between(PAGE, MARK, table)


COLUMNS = (
    "model",
    "held in",
    "trained",
    "constraint",
    "batch",
    "predicted, MiB",
    "measured",
    "ratio",
)


def row(case: Case, result: dict[str, int]) -> tuple[str, ...]:
    """A line of the table."""
    predicted, alive = result["predicted"], result["measured"]
    batch = f"{case.rows} × {case.tokens}"
    numbers = f"{predicted >> 20}", f"{alive >> 20}", f"{predicted / alive:.2f}"
    return (
        case.model,
        case.held,
        case.trained,
        case.constraint,
        batch,
        *numbers,
    )


class LiveTensors(TorchDispatchMode):
    """Counts the bytes of tensors that are alive: of every storage that an operation meets."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes_of: dict[int, int] = {}
        self.now = 0
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self._meet(args)
        self._meet(result)
        return result

    def _meet(self, value: Any) -> None:
        if isinstance(value, list | tuple):
            for part in value:
                self._meet(part)
        elif isinstance(value, torch.Tensor) and value.device.type != "meta":
            storage = value.untyped_storage()
            place = storage._cdata
            if place not in self.bytes_of:
                self.bytes_of[place] = storage.nbytes()
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._part_from, place)

    def _part_from(self, place: int) -> None:
        self.now -= self.bytes_of.pop(place)


def measured(case: Case, data: Path | None) -> dict[str, int]:
    """Bytes as told and as measured, in this process."""
    from trimtab.config.data_source import DataSource, Lengths
    from trimtab.config.experiment import Block, Experiment, Measuring, Training
    from trimtab.config.grid import plan_of
    from trimtab.config.loading import Loading
    from trimtab.data.splits import read_roles
    from trimtab.models import quiet_libraries, save_tiny_llama
    from trimtab.runner.cost import estimate_cost
    from trimtab.runner.runner import Runner
    from trimtab.runner.sweep import SilentWatcher

    quiet_libraries()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_tiny_llama(WORDS, folder / "tiny", seed=0)
        write_rows(folder, case.tokens)
        experiment = Experiment(
            model=str(folder / "wide"),
            task={"task": DataSource("task.jsonl")},
            safety={"safety": DataSource("safety.jsonl")},
            grid=(
                Block(
                    "alignment-parameter" if case.constraint == "Case II" else "alignment-loss",
                    (1.0,),
                ),
            ),
            load=Loading(case.dtype, case.quantization),  # type: ignore[arg-type]
            train=Training(
                steps=2,
                batch_size=case.rows,
                lora_rank=case.rank,
                gradient_checkpointing=case.checkpointing,
                precision=case.precision,  # type: ignore[arg-type]
                safety_target="kl" if case.constraint == "kl" else "response",
            ),
            measure=Measuring(tokens_per_batch=512),
            lengths=Lengths(prompt=256, response=256),
            data_root=str(folder),
        )

        def make(experiment: Experiment, out: Path) -> dict[str, int]:
            roles = read_roles(experiment)
            plan = plan_of(experiment)
            predicted = estimate_cost(experiment, roles, plan).memory
            with LiveTensors() as tensors:
                runner = Runner(experiment, roles, out, SilentWatcher())
                for run in plan.runs:
                    runner.points_of(run)
            return {"predicted": predicted, "measured": tensors.peak}

        if case.hidden is None:
            assert data is not None
            sources = {
                "task": {"task": DataSource(str(data.resolve() / "alpaca.jsonl.gz"), rows=64)},
                "safety": {
                    "safety": DataSource(str(data.resolve() / "safety-refusals.jsonl.gz"), rows=64)
                },
            }
            experiment = replace(experiment, model="smollm2", **sources)  # type: ignore[arg-type]
        else:
            assert case.layers is not None
            _widen(folder, case.hidden, case.layers)
        return make(experiment, folder / "out")


def write_rows(folder: Path, tokens: int) -> None:
    """Rows of one length, so that no padding stands between the two numbers."""
    prompt, response = tokens // 2, tokens // 2 - 1  # and the end of the sequence
    for file in ("task", "safety"):
        rows = [
            {
                "prompt": " ".join(WORDS[(7 * row + place) % 8000] for place in range(prompt)),
                "response": " ".join(WORDS[(5 * row + place) % 8000] for place in range(response)),
            }
            for row in range(ROWS)
        ]
        (folder / f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _widen(folder: Path, hidden: int, layers: int) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    from trimtab.models import load_tokenizer

    tokenizer = load_tokenizer(str(folder / "tiny"))
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=hidden * 43 // 16,  # Llama-2-7B's
        num_hidden_layers=layers,
        num_attention_heads=max(1, hidden // 128),
        max_position_embeddings=512,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder / "wide")
    tokenizer.save_pretrained(folder / "wide")


if __name__ == "__main__":
    main()
