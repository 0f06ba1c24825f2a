"""Token-wise constrained fine-tuning: the first tokens of a response may move least."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.config.ranges import From0
from trimtab.data.encoding import IGNORED
from trimtab.measure.losses import evaluating, tokens_read
from trimtab.train.batches import Batch
from trimtab.train.context import TrainingContext
from trimtab.train.objectives.base import Objective, Step
from trimtab.train.scoring import label_log_probs

FIRST, EARLY, EARLY_TOKENS = 5.0, 20.0, 5
"""β of the first token and of the second to fifth, as multiples of β of the later ones."""
LEAST = 1e-3
ROWS_AT_ONCE = 32


@dataclass
class ConstrainedSFT(Objective):
    """Minimise Σ ω_t·(−log P(y_t)), ω_t = max(1e-3, 2(1 − σ(β_t(log P − log P_θ_s)))) detached.

    P_θ_s are the aligned model's probabilities of the task rows' labels, computed once before
    training and kept. It needs no safety data: a token counts for less, the more likely it has
    become than it was. At β = 0 every ω is 1 and training is plain.

    Args:
        strength: β of the sixth and later tokens, the authors' 0.1; the first has 5 times it, the
            second to fifth 20 times. They also set Adam's β₁ to 0.5; here the optimizer is that of
            all methods.

    Source: Qi et al. 2025, "Safety Alignment Should Be Made More Than Just a Few Tokens Deep",
    arXiv 2406.05946, github.com/Unispac/shallow-vs-deep-alignment.
    """

    strength: From0 = 0.1
    needs_padded_rows = True

    def prepare(self, context: TrainingContext) -> None:
        rows = context.task_rows.select_columns(["input_ids", "labels"])
        self.reference: dict[tuple[int, ...], Tensor] = {}
        self.extra_tokens += tokens_read(rows)
        with evaluating(context.model) as model, torch.no_grad():
            for first in range(0, len(rows), ROWS_AT_ONCE):
                places = range(first, min(first + ROWS_AT_ONCE, len(rows)))
                batch = context.collate([rows[place] for place in places])
                log_probs = label_log_probs(model, batch).cpu()
                of_rows = zip(row_names(batch), log_probs, _predicted(batch).cpu(), strict=True)
                self.reference.update((name, row[read]) for name, row, read in of_rows)

    def loss(self, step: Step) -> Tensor:
        # The same row was padded to another width when its reference was taken.
        log_probs = torch.cat([self.reference[name] for name in row_names(step.inputs)])
        before = torch.zeros_like(step.loss_of_token).masked_scatter(
            _predicted(step.inputs), log_probs.to(step.loss_of_token)
        )
        counted = step.inputs["labels"][:, 1:] != IGNORED
        beta = self.strength * multiples(counted)
        ratio = -step.loss_of_token.detach() - before
        weight = (2 * torch.sigmoid(-beta * ratio)).clamp(min=LEAST)
        loss = (weight * step.loss_of_token).sum() / step.task_tokens.clamp(min=1)
        return loss + step.router_loss

    def extra_state(self) -> tuple[dict[tuple[int, ...], Tensor]]:
        return (self.reference,)


def multiples(counted: Tensor) -> Tensor:
    """β_t/β by the place of a token in its response; shape (rows, width), counted where a label is.

    >>> multiples(torch.tensor([[False, True, True, True, True, True, True]])).tolist()
    [[1.0, 5.0, 20.0, 20.0, 20.0, 20.0, 1.0]]
    """
    place = counted.long().cumsum(dim=1)
    early = counted & (place <= EARLY_TOKENS)
    factors = torch.ones(counted.shape, device=counted.device)
    factors[early] = EARLY
    factors[early & (place == 1)] = FIRST
    return factors


def _predicted(batch: Batch) -> Tensor:
    """Which next tokens are a row's own and not padding, on either side; (rows, width − 1)."""
    read = batch["attention_mask"].bool()
    return read[:, 1:] & read[:, :-1]


def row_names(batch: Batch) -> list[tuple[int, ...]]:
    """What tells a row from all others: its tokens, and where its response begins."""
    columns = zip(batch["input_ids"], batch["labels"], batch["attention_mask"].bool(), strict=True)
    return [
        (int((labels[read] != IGNORED).float().argmax()), *tokens[read].tolist())
        for tokens, labels, read in columns
    ]
