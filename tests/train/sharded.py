"""Trainings whose weights FSDP2 divides between processes; for `torchrun`.

`accelerate launch --cpu --use_fsdp` stays with plain data parallelism in silence, so the state is
set as Accelerate sets it on accelerators, and every training asserts that its weights are shards.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from shutil import rmtree
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch import Tensor
from torch.distributed.tensor import DTensor
from trl import SFTTrainer

from tests.train import tiny
from trimtab import (
    AlignmentLossConstraint,
    AlignmentParameterConstraint,
    Budget,
    DialObjective,
    Objective,
    SafetyAwareSFTConfig,
    SafetyAwareSFTTrainer,
)
from trimtab.errors import UserError
from trimtab.measure.distance import DensePart
from trimtab.measure.sharded_weights import reshard

ON_SHARDS: dict[str, tuple[Objective, dict[str, Any]]] = {
    **{
        name: (tiny.OBJECTIVES[name], {"optim": "sgd", "learning_rate": 0.5})
        for name in (
            "loss-penalty",
            "kl-penalty",
            "parameter-penalty",
            "parameter-radius",
            "l2-sp",
            "kl-anchor",
            "kl-anchor-on-task",
            "dial",
            "dial-kl",
        )
    },
    "budget": (
        Budget(budget=0.05, keeps_ends=True),
        {"optim": "sgd", "learning_rate": 0.5, "validation_rows": 20},
    ),
    "adam": (
        AlignmentParameterConstraint(penalty=0.3),
        {"adam_epsilon": 1e-3, "max_grad_norm": 0.5, "gradient_accumulation_steps": 2},
    ),
    "dial-adam": (
        DialObjective(),
        {
            "adam_epsilon": 1e-3,
            "max_grad_norm": 0.5,
            "gradient_accumulation_steps": 2,
            "weight_decay": 0.1,
            "eval_strategy": "steps",
            "eval_steps": 4,
        },
    ),
}
"""Objectives that train sharded weights, and the settings that show it."""

PAIRS = [(name, kind) for name in ON_SHARDS for kind in ("full", "lora")]

RESUMED = [
    ("parameter-penalty", "full", "FULL_STATE_DICT"),
    ("kl-penalty", "full", "SHARDED_STATE_DICT"),
    ("budget", "lora", "FULL_STATE_DICT"),
    ("parameter-radius", "lora", "SHARDED_STATE_DICT"),
    ("dial", "full", "FULL_STATE_DICT"),
    ("dial-kl", "full", "SHARDED_STATE_DICT"),
    ("budget", "full", "FULL_STATE_DICT"),
]
"""Resumed trainings: an objective, what it trains, and how Accelerate saves it."""


def shard_what_is_trained_next(version: int = 2, saved: str = "FULL_STATE_DICT") -> None:
    """Set Accelerate's state as `accelerate launch --use_fsdp` does on accelerators."""
    Accelerator(cpu=True)
    state = AcceleratorState()
    # A state made anew takes its kind from the partial one.
    PartialState().distributed_type = state.distributed_type = DistributedType.FSDP
    state.fsdp_plugin = FullyShardedDataParallelPlugin(
        fsdp_version=version,
        auto_wrap_policy="transformer_based_wrap",
        state_dict_type=saved,
        cpu_ram_efficient_loading=False,
        reshard_after_forward=True if version == 2 else "FULL_SHARD",
    )


def config(folder: Path, processes: int, **settings: Any) -> SafetyAwareSFTConfig:
    rows = 16 // processes // settings.get("gradient_accumulation_steps", 1)
    return tiny.config(
        folder,
        **{
            "per_device_train_batch_size": rows,
            "max_steps": 6,
            "logging_steps": 1,
            "measured_tokens_per_batch": 40,
            **settings,
        },
    )


def trained_on_shards(
    objective: Objective,
    arguments: SafetyAwareSFTConfig,
    folder: Path,
    lora: bool,
    resume: bool = False,
    saved: str = "FULL_STATE_DICT",
) -> SafetyAwareSFTTrainer:
    shard_what_is_trained_next(saved=saved)
    trainer = tiny.trained(objective, arguments, folder, lora, resume)
    reshard(trainer.model)  # an evaluation leaves weights gathered
    weights = [weight for weight in trainer.model.parameters() if weight.requires_grad]
    parts = trainer.displacement.parts if trainer.displacement else []
    if trainer.objective is not None:
        weights += [weight for copies in trainer.objective.copies() for weight in copies]
    weights += [part.start for part in parts if isinstance(part, DensePart)]
    if trainer.reference is not None and trainer.reference.copy is not None:
        weights += trainer.reference.copy.parameters()
    assert weights
    assert all(isinstance(weight, DTensor) for weight in weights)
    return trainer


def whole_weights(trainer: SFTTrainer) -> dict[str, Tensor]:
    return {
        name: weight.full_tensor() if isinstance(weight, DTensor) else weight
        for name, weight in tiny.weights(trainer).items()
    }


def record(trainer: SafetyAwareSFTTrainer) -> dict[str, Any]:
    displacement = trainer.displacement
    return {
        "weights": whole_weights(trainer),
        "distance": 0.0 if displacement is None else float(displacement.norm()),
        "logs": trainer.state.log_history,
    }


def trained_whole(name: str, kind: str, folder: Path) -> dict[str, Any]:
    objective, settings = ON_SHARDS[name]
    arguments = config(folder / "run", 1, **settings)
    return record(tiny.trained(objective, arguments, folder, kind == "lora"))


def through_and_resumed(name: str, kind: str, saved: str, folder: Path) -> list[dict[str, Any]]:
    """A training, and its second half once more from the checkpoint in its middle."""
    objective, settings = ON_SHARDS[name]
    run = folder / f"{name}-{kind}-{saved}"
    # The state of SGD is empty, and PyTorch does not load an empty one into shards.
    settings = {**settings, "optim": "adamw_torch", "learning_rate": 1e-2, "adam_epsilon": 1e-3}
    records = []
    for resume in (False, True):
        arguments = config(run, 2, save_strategy="steps", save_steps=3, **settings)
        trainer = trained_on_shards(objective, arguments, folder, kind == "lora", resume, saved)
        records.append(record(trainer))
        if trainer.accelerator.is_main_process and not resume:
            rmtree(run / "checkpoint-6")
        trainer.accelerator.wait_for_everyone()
    return records


NOT_ON_SHARDS = {
    name: objective
    for name, objective in tiny.OBJECTIVES.items()
    if name not in ON_SHARDS and not isinstance(objective, DialObjective)
}


def refusals(folder: Path) -> dict[str, str]:
    """What is said of each training that does not go with sharded weights."""
    messages = {
        name: refusal_message(objective, folder) for name, objective in NOT_ON_SHARDS.items()
    }
    messages["FSDP 1"] = refusal_message(
        AlignmentParameterConstraint(radius=1.0), folder, version=1
    )
    messages["dial on FSDP 1"] = refusal_message(DialObjective(), folder, version=1)
    messages["bucketed"] = refusal_message(AlignmentLossConstraint(), folder, length_bucketing=True)
    return messages


def refusal_message(objective: Objective, folder: Path, version: int = 2, **settings: Any) -> str:
    arguments = config(folder / "refused", 2, **settings)
    shard_what_is_trained_next(version)
    model, tokenizer = tiny.tiny_llama(folder / "model")
    try:
        SafetyAwareSFTTrainer(
            model,
            args=arguments,
            train_dataset=tiny.rows(64, seed=2),
            safety_dataset=tiny.rows(40, seed=5),
            objective=objective,
            processing_class=tokenizer,
        )
    except UserError as error:
        return str(error)
    return "nothing"


def main() -> None:
    out = Path(sys.argv[1])
    for name, kind in PAIRS:
        objective, settings = ON_SHARDS[name]
        arguments = config(out / "run", 2, **settings)
        trainer = trained_on_shards(objective, arguments, out, kind == "lora")
        result = record(trainer)
        if (name, kind) == ("dial", "full"):
            dial = trainer.objective
            assert isinstance(dial, DialObjective)
            dial.endpoints.save(out / "ends", trainer.processing_class)
        if arguments.process_index == 0:
            torch.save(result, out / f"{name}-{kind}.pt")
    for name, kind, saved in RESUMED:
        records = through_and_resumed(name, kind, saved, out)
        if PartialState().is_main_process:
            torch.save(records, out / f"{name}-{kind}-{saved}.pt")
    messages = refusals(out)
    if PartialState().is_main_process:
        (out / "refused.json").write_text(json.dumps(messages))
