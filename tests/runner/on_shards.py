"""trimtab under FSDP2 on CPUs, where Accelerate's launcher does not ask for it; for `torchrun`."""

from __future__ import annotations

import os
from typing import Any

from tests.train.sharded import shard_what_is_trained_next
from trimtab.cli import main
from trimtab.runner import trainings

_sft_config = trainings.sft_config


def _sft_config_on_shards(*given: Any) -> Any:
    args = _sft_config(*given)
    shard_what_is_trained_next()
    return args


if __name__ == "__main__":
    os.environ["ACCELERATE_USE_FSDP"] = "true"  # as the launcher has it
    trainings.sft_config = _sft_config_on_shards
    main()
