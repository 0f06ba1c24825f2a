"""Mixing (SafeInstr): safety rows among the task rows."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

import torch
from datasets import Dataset, concatenate_datasets

from trimtab.config.ranges import From0
from trimtab.train.context import TrainingContext
from trimtab.train.objectives.base import Objective, Roles


@dataclass
class Mixing(Objective):
    """Minimise the mean loss over D_f ∪ D_ŝ, `ratio` safety rows to a task row.

    The mean is over tokens, so it is Case I at λ = T_ŝ/T_f, the tokens of either role in the mix;
    only where responses are of one length is that the ratio of rows. Rows are shuffled together, so
    how many of each a batch holds is left to chance. Where the ratio asks for more safety rows than
    there are, all come again and again.

    Args:
        ratio: ≥ 0; the authors mix 100 to 2,000 safety rows into 20,000: 0.005 to 0.1.

    Source: Bianchi et al. 2024, "Safety-Tuned LLaMAs", arXiv 2309.07875.
    """

    ratio: From0 = 0.1
    needs_safety = True

    def task_rows(self, context: TrainingContext) -> Dataset:
        assert context.safety is not None
        task, safety = context.task_rows, context.safety.rows
        columns = ["input_ids", "labels"]
        places = endless_orders(len(safety), context.args.seed, round(self.ratio * len(task)))
        task = task.select_columns(columns)
        mixed_in = safety.select_columns(columns).select(places)
        # Rows that came as tokens may be of another integer type than those that came as text.
        return concatenate_datasets([task, mixed_in.cast(task.features)])

    def batch_roles(self, step: int) -> Roles:
        return "task"


def endless_orders(size: int, seed: int, count: int) -> list[int]:
    """`count` places among `size`, in one random order after another."""
    generator = torch.Generator().manual_seed(seed)
    turns = (torch.randperm(size, generator=generator).tolist() for _ in range(count // size + 1))
    return list(islice((place for turn in turns for place in turn), count))
