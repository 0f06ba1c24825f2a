"""A finite world, its data as files, and a small model aligned on its original data."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from trl import SFTConfig, SFTTrainer

from trimtab.config.data_source import DataSource, Lengths
from trimtab.data.encoding import encode
from trimtab.data.sources import read_rows
from trimtab.data.synthetic import CONTEXTS, RESPONSES, World, make_world, write_data
from trimtab.models import load_model, save_tiny_llama

LENGTHS = Lengths(prompt=8, response=8)


class Recorder:
    """A watcher that remembers what it was told."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.warnings: list[str] = []

    def warned(self, warning: str) -> None:
        self.warnings.append(warning)

    def doing(self, what: str, steps: int | None = None) -> None:
        self.stages.append(what)

    def stepped(self, steps: int) -> None: ...


@dataclass(frozen=True)
class AlignedWorld:
    folder: Path
    world: World
    model: str
    original: str
    safety: dict[str, str]
    task: dict[str, str]

    def source(self, path: str) -> DataSource:
        return DataSource(path)

    def sources(self, paths: dict[str, str]) -> dict[str, DataSource]:
        return {name: DataSource(path) for name, path in paths.items()}


def aligned_world(folder: Path, rows: int = 1500, steps: int = 150, seed: int = 0) -> AlignedWorld:
    world = make_world(
        {"near": 0.15, "middle": 0.45, "far": 0.8}, {"mixed": 0.5, "apart": 0.0}, seed
    )
    original, safety, task = write_data(world, folder, rows, seed)
    save_tiny_llama([*CONTEXTS, *RESPONSES], folder / "base", seed)
    model, tokenizer = load_model(str(folder / "base"))
    trainer = SFTTrainer(
        model,
        args=SFTConfig(
            str(folder / "run"),
            max_steps=steps,
            per_device_train_batch_size=64,
            learning_rate=2e-3,
            lr_scheduler_type="linear",
            weight_decay=0.0,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            max_length=None,
            seed=seed,
        ),
        train_dataset=encode(read_rows(original, folder), tokenizer, LENGTHS),
        processing_class=tokenizer,
    )
    trainer.train()
    trainer.model.save_pretrained(folder / "aligned")
    tokenizer.save_pretrained(folder / "aligned")
    return AlignedWorld(
        folder,
        world,
        str(folder / "aligned"),
        str(folder / original.path),
        {name: str(folder / source.path) for name, source in safety.items()},
        {name: str(folder / source.path) for name, source in task.items()},
    )


def write_rows(path: Path, rows: list[dict[str, str]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)
