"""What a model loses on each row while it is trained, measured by all processes together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from datasets import Dataset

from trimtab.measure.losses import Array, forward_passes, response_nll
from trimtab.measure.sharded_weights import reshard


@dataclass(frozen=True)
class MeasuredTogether:
    """−log P_θ(y|x) in nats and the tokens of y, by row: each process takes a share of the rows."""

    model: Any
    accelerator: Accelerator
    is_sharded: bool
    tokens_per_batch: int

    def __call__(self, rows: Dataset) -> tuple[Array, Array]:
        here, processes = self.accelerator.process_index, self.accelerator.num_processes
        divided = [rows.select(range(first, len(rows), processes)) for first in range(processes)]
        found = torch.zeros(2, len(rows), dtype=torch.float64)
        passes = 0
        if self.is_sharded:  # all processes pass through the model together
            passes = max(forward_passes(each, self.tokens_per_batch) for each in divided)
        if len(divided[here]) or passes:
            with self.accelerator.autocast():
                nll = response_nll(self.model, divided[here], self.tokens_per_batch, passes)
            found[:, here::processes] = torch.from_numpy(np.stack(nll))
            reshard(self.model)
        if processes > 1:
            found = self.accelerator.reduce(found.to(self.accelerator.device)).cpu()
        nll, tokens = found.numpy()
        return nll, tokens
