"""SEAL: fine-tune on the task rows that a model kept safe finds easiest; and a random subset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from accelerate import PartialState
from accelerate.utils import broadcast
from datasets import Dataset
from torch import Tensor
from torch.optim import AdamW

from trimtab.config.ranges import Above0, Count, Range
from trimtab.data.encoding import IGNORED
from trimtab.train.baselines.mixing import endless_orders
from trimtab.train.batches import Batch
from trimtab.train.context import TrainingContext
from trimtab.train.objectives.base import Objective, Roles, trained
from trimtab.train.reference import copy_apart
from trimtab.train.scoring import label_log_probs

BETAS = (0.9, 0.95)
GAMMA_FALL = 0.03

KeptShare = Annotated[float, Range(above=0, at_most=1)]


@dataclass
class DataSelection(Objective):
    """SEAL: learn a weight wᵢ of every task row on two levels, then fine-tune on the best rows.

    On a copy of the model, batch by batch and for some epochs over the task rows,

        θ descends  γ·L_ŝ + (1 − γ)·mean(wᵢ Lᵢ),   then the logits of w descend  mean(wᵢ Lᵢ),

    w = N·softmax(logits), Lᵢ the mean loss of a row over its tokens, γ from 1 falling by 0.03 an
    epoch: rows that a model trained on safety finds easy gain weight. The copy is thrown away and
    the share of rows with the largest weights is trained on, as SFT does.

    Args:
        kept_share: of the task rows, the authors' 0.8.
        epochs, selector_rate: theirs, 3 and 5e-3; the model's learning rate is the trainer's, and a
            batch all rows of its step.

    Source: Shen, Chen, Das and Chen 2025, "SEAL: Safety-enhanced Aligned LLM Fine-tuning via
    Bilevel Data Selection", arXiv 2410.07471, github.com/hanshen95/SEAL.
    """

    kept_share: KeptShare = 0.8
    epochs: Count = 3
    selector_rate: Above0 = 5e-3
    needs_safety = True
    needs_padded_rows = True

    def batch_roles(self, step: int) -> Roles:
        return "task"

    def task_rows(self, context: TrainingContext) -> Dataset:
        task = context.task_rows
        logits = self.selector(context, task).to(PartialState().device)
        logits = broadcast(logits).cpu()  # one choice, of all processes
        places = logits.argsort(descending=True)[: _count(self.kept_share, len(task))]
        return task.select(sorted(places.tolist()))

    def selector(self, context: TrainingContext, task: Dataset) -> Tensor:
        """The learned logits, one per task row."""
        assert context.safety is not None
        safety, collate = context.safety.rows, context.safety.collate
        task = task.select_columns(["input_ids", "labels"])
        args, seed = context.args, context.args.seed
        size = args.per_device_train_batch_size * args.gradient_accumulation_steps
        size *= args.world_size  # a step's rows, however they are divided
        steps_per_epoch = max(1, len(task) // size)
        steps = self.epochs * steps_per_epoch
        task_order = endless_orders(len(task), seed, steps * size)
        safety_order = endless_orders(len(safety), seed + 1, steps * size)
        model = copy_apart(context.model).train()
        logits = torch.zeros(len(task), requires_grad=True)
        descent = AdamW(
            trained(model), lr=context.args.learning_rate, betas=BETAS, weight_decay=0.0
        )
        selection = AdamW([logits], lr=self.selector_rate, betas=BETAS, weight_decay=0.0)
        for number in range(steps):
            gamma = 1 - GAMMA_FALL * (number // steps_per_epoch)
            span = slice(number * size, (number + 1) * size)
            places = task_order[span]
            losses = self._row_losses(model, collate([task[place] for place in places]))
            weights = (len(task) * torch.softmax(logits, dim=0))[places].to(losses.device)
            beside = collate([safety[place] for place in safety_order[span]])
            upper = self._row_losses(model, beside).mean()
            lower = (weights.detach() * losses).mean()
            (gamma * upper + (1 - gamma) * lower).backward()
            descent.step()
            descent.zero_grad()
            (weights * losses.detach()).mean().backward()
            selection.step()
            selection.zero_grad()
        return logits.detach()

    def _row_losses(self, model: torch.nn.Module, batch: Batch) -> Tensor:
        self.extra_tokens += int(batch["attention_mask"].sum())
        nll = -label_log_probs(model, batch).sum(dim=1)
        tokens = (batch["labels"][:, 1:] != IGNORED).sum(dim=1)
        return nll / tokens.clamp(min=1).to(nll.device)


@dataclass
class RandomSubset(Objective):
    """Plain fine-tuning on a random share of the task rows: what SEAL's selection has to beat."""

    kept_share: KeptShare = 0.8

    def task_rows(self, context: TrainingContext) -> Dataset:
        task = context.task_rows
        generator = torch.Generator().manual_seed(context.args.seed)
        places = torch.randperm(len(task), generator=generator)
        return task.select(sorted(places[: _count(self.kept_share, len(task))].tolist()))


def _count(share: float, rows: int) -> int:
    return max(1, round(share * rows))
