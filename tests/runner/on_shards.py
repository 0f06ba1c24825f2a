"""trimtab under FSDP2 on CPUs, where Accelerate's launcher does not ask for it; for `torchrun`."""

from __future__ import annotations

import os
import signal
from typing import Any

from torch.distributed.tensor import DTensor

from tests.train.sharded import shard_what_is_trained_next
from trimtab import cli
from trimtab.runner import cluster, trainings
from trimtab.train.trainer import SafetyAwareSFTTrainer


def shard_every_training() -> None:
    """From now on, in this process."""
    sft_config, train = trainings.sft_config, SafetyAwareSFTTrainer.train

    def on_shards(*args: Any) -> Any:
        config = sft_config(*args)
        shard_what_is_trained_next()
        return config

    def seen(self: SafetyAwareSFTTrainer, *args: Any, **named: Any) -> Any:
        trained = train(self, *args, **named)
        assert all(isinstance(weight, DTensor) for weight in self.model.parameters())
        return trained

    trainings.sft_config = on_shards
    SafetyAwareSFTTrainer.train = seen  # type: ignore[method-assign]


def prepared_on_shards(*args: Any) -> None:
    """A process of a group of Ray's."""
    shard_every_training()
    cluster._prepared(*args)


def main_killed_at_first() -> None:
    """The first process of a training is killed in its step 3, unless it goes on from before."""
    on_train_begin, on_step_end = (
        trainings._Progress.on_train_begin,
        trainings._Progress.on_step_end,
    )
    steps_before: list[int] = []

    def beginning(self: Any, args: Any, state: Any, control: Any, **handles: Any) -> None:
        steps_before.append(state.global_step)
        on_train_begin(self, args, state, control, **handles)

    def stepping(self: Any, args: Any, state: Any, control: Any, **handles: Any) -> None:
        if steps_before[-1] == 0 and state.global_step == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        on_step_end(self, args, state, control, **handles)

    trainings._Progress.on_train_begin = beginning  # type: ignore[method-assign]
    trainings._Progress.on_step_end = stepping  # type: ignore[method-assign]
    main()


def main() -> None:
    os.environ["ACCELERATE_USE_FSDP"] = "true"  # as the launcher has it
    shard_every_training()
    cli.main()
