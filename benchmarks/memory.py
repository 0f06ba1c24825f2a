"""Is the memory that `--dry-run` tells of the memory that a training takes?

    python benchmarks/memory.py [--data ../shared/data] [--write]

Each line is a process of its own that trains and measures one point of Case I: what
`runner.cost.peak_memory` says of it, and by how much the process's resident memory grew at its peak
from before the model was loaded, after a training of a tiny model has brought every library in.
Without --data SmolLM2 is left out. `--write` keeps the numbers in benchmarks/results/memory.json,
which a test holds to a factor of two.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "memory.json"

WORDS = [f"w{number}" for number in range(8000)]
PROMPT, RESPONSE, ROWS = 128, 127, 64


@dataclass(frozen=True)
class Case:
    """A model's shape (SmolLM2 where there is none), how it is held, and what is trained."""

    hidden: int | None
    layers: int | None
    dtype: str
    quantization: str
    rank: int | None
    checkpointing: bool

    @property
    def told(self) -> str:
        """The model in words."""
        return f"Llama {self.layers} × {self.hidden}" if self.hidden else "SmolLM2-135M"


HELD = (("float32", "none"), ("bfloat16", "none"), ("bfloat16", "nf4"))
CASES = (
    *(Case(512, 8, *held, 16, True) for held in HELD),
    Case(512, 8, "float32", "none", 16, False),
    Case(512, 8, "float32", "none", None, True),
)
SMOLLM2 = tuple(Case(None, None, *held, 16, True) for held in HELD)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case:
        print(json.dumps(measured(Case(**json.loads(given.case)), given.data)))
        return
    lines = []
    print(f"{'model':<16}{'held in':<18}{'rank':>5}{'checkpoints':>13}", end="")
    print(f"{'predicted':>12}{'measured':>11}{'ratio':>7}   MiB")
    for case in (*CASES, *(SMOLLM2 if given.data else ())):
        command = [sys.executable, __file__, "--case", json.dumps(asdict(case))]
        command += ["--data", str(given.data)] if given.data else []
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            print(done.stderr[-2000:], file=sys.stderr)
            continue
        line = json.loads(done.stdout.splitlines()[-1])
        lines.append({"model": case.told, **asdict(case), **line})
        held = case.dtype if case.quantization == "none" else f"{case.dtype} + {case.quantization}"
        print(f"{case.told:<16}{held:<18}{case.rank or 'all':>5}{case.checkpointing!s:>13}", end="")
        predicted, found = line["predicted"], line["measured"]
        print(f"{predicted >> 20:>12}{found >> 20:>11}{predicted / found:>7.2f}", flush=True)
    if given.write:
        RESULTS.write_text(json.dumps(lines, indent=1) + "\n")


def measured(case: Case, data: Path | None) -> dict[str, int]:
    """Bytes as told and as measured, in this process."""
    from trimtab.config.data_source import DataSource, Lengths
    from trimtab.config.experiment import Block, Experiment, Measuring, Training
    from trimtab.config.grid import plan_of
    from trimtab.config.loading import Loading
    from trimtab.models import quiet_libraries, save_tiny_llama
    from trimtab.runner.cost import estimate_cost
    from trimtab.runner.runner import Runner
    from trimtab.runner.sweep import read_roles

    quiet_libraries()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_tiny_llama(WORDS, folder / "tiny", seed=0)
        _widen(folder, 96, 2)
        write_rows(folder)
        load = Loading(case.dtype, case.quantization)  # type: ignore[arg-type]
        training = Training(
            steps=2,
            batch_size=4,
            lora_rank=case.rank,
            gradient_checkpointing=case.checkpointing,
        )
        asked = Experiment(
            model=str(folder / "wide"),
            task={"task": DataSource("task.jsonl")},
            safety={"safety": DataSource("safety.jsonl")},
            grid=(Block("alignment-loss", (1.0,)),),
            load=load,
            train=training,
            measure=Measuring(tokens_per_batch=1024),
            lengths=Lengths(prompt=256, response=256),
            data_root=str(folder),
        )

        def make(experiment: Experiment, out: Path) -> int:
            roles = read_roles(experiment)
            predicted = estimate_cost(experiment, roles, plan_of(experiment)).memory
            before = _memory("VmRSS")
            Path("/proc/self/clear_refs").write_text("5")  # forget the peak until now
            runner = Runner(experiment, roles, out, _Nobody())
            for run in plan_of(experiment).runs:
                runner.made(run)
            found.append(_memory("VmHWM") - before)
            return predicted

        found: list[int] = []
        make(asked, folder / "warm")
        if case.hidden is None:
            assert data is not None
            sources = {
                "task": {"task": DataSource(str(data.resolve() / "alpaca.jsonl.gz"), rows=64)},
                "safety": {
                    "safety": DataSource(str(data.resolve() / "safety-refusals.jsonl.gz"), rows=64)
                },
            }
            asked = replace(asked, model="smollm2", **sources)  # type: ignore[arg-type]
        else:
            assert case.layers is not None
            _widen(folder, case.hidden, case.layers)
        predicted = make(asked, folder / "out")
        return {"predicted": predicted, "measured": found[-1]}


def write_rows(folder: Path) -> None:
    """Rows of one length, so that no padding stands between the two numbers."""
    for file in ("task", "safety"):
        rows = [
            {
                "prompt": " ".join(WORDS[(7 * row + place) % 8000] for place in range(PROMPT)),
                "response": " ".join(WORDS[(5 * row + place) % 8000] for place in range(RESPONSE)),
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


def _memory(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{name}:"))
    return int(line.split()[1]) << 10


class _Nobody:
    def __getattr__(self, name: str) -> Any:
        return lambda *given: None


if __name__ == "__main__":
    main()
