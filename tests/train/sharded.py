"""Trainings whose weights FSDP2 divides between processes; a script for `torchrun`.

`accelerate launch --cpu --use_fsdp` stays with plain data parallelism in silence, so the state is
set as Accelerate sets it on accelerators, and every training asserts that its weights are shards.
"""

from __future__ import annotations

import sys
from pathlib import Path
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
    Objective,
    SafetyAwareSFTConfig,
    SafetyAwareSFTTrainer,
)

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
        )
    },
    # What is learned magnifies rounding: steps are small and budgets are not.
    "loss-budget": (
        AlignmentLossConstraint(budget=0.3),
        {"optim": "sgd", "learning_rate": 0.05, "validation_rows": 20},
    ),
    "parameter-budget": (
        AlignmentParameterConstraint(budget=0.05),
        {"optim": "sgd", "learning_rate": 0.5, "validation_rows": 20},
    ),
    "adam": (
        AlignmentParameterConstraint(penalty=0.3),
        {"adam_epsilon": 1e-3, "max_grad_norm": 0.5, "gradient_accumulation_steps": 2},
    ),
}
"""Objectives that train sharded weights, and the settings that show it."""


def shard_what_is_trained_next(version: int = 2) -> None:
    """Set Accelerate's state as `accelerate launch --use_fsdp` does on accelerators."""
    Accelerator(cpu=True)
    state = AcceleratorState()
    # A state made anew takes its kind from the partial one.
    PartialState().distributed_type = state.distributed_type = DistributedType.FSDP
    state.fsdp_plugin = FullyShardedDataParallelPlugin(
        fsdp_version=version,
        auto_wrap_policy="transformer_based_wrap",
        state_dict_type="FULL_STATE_DICT",
        cpu_ram_efficient_loading=False,
        reshard_after_forward=True,
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
    objective: Objective, arguments: SafetyAwareSFTConfig, folder: Path, lora: bool
) -> SafetyAwareSFTTrainer:
    shard_what_is_trained_next()
    trainer = tiny.trained(objective, arguments, folder, lora)
    weights = [one for one in trainer.model.parameters() if one.requires_grad]
    assert weights
    assert all(isinstance(one, DTensor) for one in weights)
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


if __name__ == "__main__":
    out = Path(sys.argv[1])
    for name, (objective, settings) in ON_SHARDS.items():
        for kind in ("full", "lora"):
            arguments = config(out / "run", 2, **settings)
            found = record(trained_on_shards(objective, arguments, out, kind == "lora"))
            if arguments.process_index == 0:
                torch.save(found, out / f"{name}-{kind}.pt")
