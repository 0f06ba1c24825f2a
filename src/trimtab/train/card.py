"""The model card of a training in Python, in place of the empty form that PEFT leaves."""

from __future__ import annotations

from collections.abc import Sized
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING

from peft import PeftModel

from trimtab.config.model_names import public_name
from trimtab.results.cards import CITATION, card_metadata

if TYPE_CHECKING:
    from trimtab.train.objectives.base import Objective
    from trimtab.train.trainer import SafetyAwareSFTTrainer

_PLAIN = "Plain fine-tuning, with no constraint"
_NOT_MEASURED = """\
- Its losses on held-out rows before and after, and what it answers: a trainer measures neither.
  `trimtab evaluate` has the answers of both models judged.
- General benchmarks, and attacks."""


def training_card(trainer: SafetyAwareSFTTrainer) -> str:
    """What was trained, under what, on how many rows, and what nobody measured."""
    inner = trainer.accelerator.unwrap_model(trainer.model)
    is_adapter = isinstance(inner, PeftModel)
    base = (inner.get_base_model() if is_adapter else inner).config._name_or_path
    metadata = card_metadata(base, is_adapter, ("trl", "sft", "trimtab", "safety"))
    args, state = trainer.args, trainer.state
    task = trainer.train_dataset
    rows = [f"{len(task):,} task rows" if isinstance(task, Sized) else "a stream of task rows"]
    if trainer.safety_stream is not None:
        rows.append(f"{len(trainer.safety_stream.rows):,} safety rows")
    start = f"`{public_name(base)}`" if base else "a model in memory"
    return "\n\n".join(
        [
            f"---\n{metadata.to_yaml()}\n---",
            f"# {start}, fine-tuned",
            f"{_constraint(trainer.objective)}. {state.global_step:,} of {state.max_steps:,} steps "
            f"on {' and '.join(rows)}, learning rate {args.learning_rate:g}, seed {args.seed}.",
            f"## What was not measured\n\n{_NOT_MEASURED}",
            f"## Citation\n\n{CITATION}\n",
        ]
    )


def _constraint(objective: Objective | None) -> str:
    if objective is None:
        return _PLAIN
    names: list[str] = []
    if is_dataclass(objective):
        names = [field.name for field in fields(objective)]
    values = [
        f"{name}={value!r}"
        for name in names
        if isinstance(value := getattr(objective, name), bool | int | float | str)
    ]
    lead = (type(objective).__doc__ or "").strip().split("\n")[0].rstrip(".:,")
    return f"`{type(objective).__name__}({', '.join(values)})`: {lead}"
