"""PACT: on the task's responses the aligned model's confidence in safety tokens is held."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal

import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax
from torch.nn.utils.rnn import pad_sequence

from trimtab.config.ranges import Count, From0
from trimtab.data.encoding import IGNORED
from trimtab.errors import UserError
from trimtab.measure.losses import evaluating, labelled_places, logits_at, tokens_read
from trimtab.train.baselines.post_hoc import required
from trimtab.train.batches import Batch
from trimtab.train.context import TrainingContext
from trimtab.train.objectives.base import Objective, Roles, Step
from trimtab.train.reference import AlignedReference

TEMPERATURE = 2.0
TOP_P = 0.9
GATE = 2.0
"""How steeply the share of the response alone follows the difference in confidence."""
EARLY_TOKENS = 8
"""From which place in a response that share falls by e every so many tokens."""
RESPONSE_TOKENS = 64
"""Of a safety response, that find safety tokens."""
ROWS_AT_ONCE = 16
LIKE_ROWS = 256
"""Task rows whose prompts' common ending is what precedes a response."""


@dataclass
class PACT(Objective):
    """Minimise L_f(θ) + λ·KL(q ‖ P_θ) over safety tokens alone, a mean over task completions.

    *Safety tokens* S are the k that θ_s gives most probability on safety responses, on average.
    Their weights are w = max(0, z), z the mean rise of their probability from the unaligned model's
    to θ_s's, standardised over S. Safety rows serve to find them and are not trained on.

    At each position of a task response q ∝ w·softmax(s/T) over S and P_θ = softmax(logits/T) over
    S, T = 2; the KL is multiplied by T². s = (1 − c)·(θ_s's logits) + c·(those it gives to the
    response alone, after what ends every prompt), c = σ(2(I_θ − I_alone))·exp(−max(0, t − 8)/8) at
    the response's token t from 0, where I is the share of S that makes up 0.9 of the probability in
    S: the response alone counts for more where θ is the less sure of the two.

    Args:
        penalty: λ ≥ 0, the authors' 1.
        unaligned: the model from before it was aligned, with the same vocabulary, or what loads it.
        tokens: k, the authors' 50.
        rows: how many safety rows find them at most, the authors' 512.

    They write prompts for the unaligned model without a chat template; here both read the same.

    Raises:
        UserError: there is no unaligned model, or it gives all tokens the same probability; a task
            row has no prompt.

    Source: Wang et al. 2026, "Few Tokens, Big Leverage: Preserving Safety Alignment by Constraining
    Safety Tokens during Fine-tuning", arXiv 2603.07445, github.com/Glresearch1/PACT.
    """

    penalty: From0 = 1.0
    unaligned: nn.Module | Callable[[], nn.Module] | None = None
    tokens: Count = 50
    rows: Count = 512
    needs_padded_rows = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.needs_safety = True

    @property
    def compares(self) -> Literal["task"]:
        return "task"

    def batch_roles(self, step: int) -> Roles:
        return "task"

    def prepare(self, context: TrainingContext) -> None:
        given = self.unaligned
        before = required(
            given if given is None or isinstance(given, nn.Module) else given(), "PACT"
        )
        if any(labels[0] != IGNORED for labels in context.task_rows["labels"]):
            raise UserError(
                "PACT reads what follows a prompt without it, and a task row has no prompt. Give "
                "rows of a prompt and a completion."
            )
        rows = self.safety_rows(context)
        places = range(min(self.rows, len(rows)))
        batches = [
            context.collate([rows[place] for place in places[first : first + ROWS_AT_ONCE]])
            for first in places[::ROWS_AT_ONCE]
        ]
        self.extra_tokens += 2 * tokens_read(rows.select(places))  # by two models
        with evaluating(context.model) as aligned, torch.no_grad():
            self.safety_tokens, self.weights = safety_tokens(
                aligned, before.to(aligned.device).eval(), batches, self.tokens
            )
        self.header = common_ending(context.task_rows)

    def loss(self, step: Step) -> Tensor:
        return step.task_loss + self.penalty * step.divergence_on_task

    def divergence(
        self, reference: AlignedReference, logits: Tensor, trained: nn.Module, batch: Batch
    ) -> Tensor:
        places = labelled_places(batch["labels"])
        of_row, column = places.nonzero(as_tuple=True)
        place = column - places.int().argmax(dim=1)[of_row]
        alone = response_alone(batch, self.header)
        beside = torch.zeros_like(alone["input_ids"], dtype=torch.bool)
        beside[of_row, len(self.header) - 1 + place] = True
        ours, whole, by_response = (
            whole_vocabulary[:, self.safety_tokens].float()
            for whole_vocabulary in (
                logits,
                reference.logits_at(places, trained, batch),
                reference.logits_at(beside, trained, alone),
            )
        )
        share = share_alone(ours.detach(), by_response, place)
        return held_apart(ours, torch.lerp(whole, by_response, share), self.weights)

    def extra_state(self) -> tuple[Tensor, Tensor]:
        return self.safety_tokens, self.weights


def held_apart(ours: Tensor, held: Tensor, weights: Tensor) -> Tensor:
    """Σ over positions of T²·KL(q ‖ softmax(ours/T)), q ∝ w·softmax(held/T), in nats.

    Logits of shape (positions, tokens), weights of shape (tokens,), at least one above 0.
    """
    wanted = weights * torch.softmax(held / TEMPERATURE, dim=-1)
    wanted = wanted / wanted.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(wanted.dtype).tiny)
    predicted = log_softmax(ours / TEMPERATURE, dim=-1)
    return TEMPERATURE**2 * kl_div(predicted, wanted, reduction="sum")


def share_alone(ours: Tensor, alone: Tensor, place: Tensor) -> Tensor:
    """c, of shape (positions, 1): what the logits without a prompt count for."""
    difference = _unsureness(ours) - _unsureness(alone)
    fall = torch.exp(-(place - EARLY_TOKENS).clamp(min=0) / EARLY_TOKENS)
    return (torch.sigmoid(GATE * difference) * fall)[:, None]


def _unsureness(logits: Tensor) -> Tensor:
    """The share of tokens, the likeliest first, that make up TOP_P of the probability."""
    falling = torch.softmax(logits, dim=-1).sort(dim=-1, descending=True).values
    needed = (falling.cumsum(dim=-1) < TOP_P).sum(dim=-1) + 1
    return needed / logits.shape[-1]


def safety_tokens(
    aligned: nn.Module,
    unaligned: nn.Module,
    batches: list[Batch],
    count: int,
) -> tuple[Tensor, Tensor]:
    """The `count` tokens that the aligned model gives most probability, and their weights.

    Raises:
        UserError: the two models give them the same probabilities.
    """
    ours, theirs = (_mean_probabilities(model, batches) for model in (aligned, unaligned))
    if ours.shape != theirs.shape:
        raise UserError(
            f"the unaligned model has a vocabulary of {len(theirs)} tokens, the aligned one of "
            f"{len(ours)}. Give the model that this one comes from."
        )
    chosen = ours.topk(min(count, len(ours))).indices.sort().values
    rise = (ours - theirs)[chosen]
    spread = rise.std()
    if not spread > 0:
        raise UserError(
            "the unaligned model gives safety responses the probabilities that the aligned one "
            "gives them, and PACT holds what differs. Give the model from before it was aligned."
        )
    return chosen, ((rise - rise.mean()) / spread).clamp(min=0).float()


def _mean_probabilities(model: nn.Module, batches: list[Batch]) -> Tensor:
    """Of each token, the mean over positions of a response, and over responses."""
    device = next(model.parameters()).device
    sums, rows = torch.zeros(1, dtype=torch.float64, device=device), 0
    for batch in batches:
        batch = {name: batch[name].to(device) for name in ("input_ids", "attention_mask", "labels")}
        counted = labelled_places(batch.pop("labels"))
        counted &= counted.long().cumsum(dim=1) <= RESPONSE_TOKENS
        probabilities = logits_at(model, batch, counted)[1].float().softmax(dim=-1)
        positions = counted.sum(dim=1, keepdim=True).clamp(min=1).expand_as(counted)[counted]
        sums = sums + (probabilities.double() / positions[:, None]).sum(dim=0)
        rows += len(counted)
    return sums / rows


def response_alone(batch: Batch, header: list[int]) -> Batch:
    """Each row's response after `header` in the place of its prompt, as a model reads it."""
    rows = []
    for tokens, labels in zip(batch["input_ids"], batch["labels"], strict=True):
        places = (labels != IGNORED).nonzero()[:, 0]
        response = tokens[places[0] : places[-1]] if len(places) else tokens[:0]
        rows.append(torch.cat([tokens.new_tensor(header), response]))
    lengths = torch.tensor([len(row) for row in rows], device=rows[0].device)
    padded = pad_sequence(rows, batch_first=True)
    mask = torch.arange(padded.shape[1], device=padded.device) < lengths[:, None]
    return {"input_ids": padded, "attention_mask": mask.long()}


def common_ending(rows: Dataset) -> list[int]:
    """What ends all prompts, as a chat template's call for an answer; at least a token of one.

    >>> rows = [{"input_ids": [5, 7, 8, 1], "labels": [-100, -100, -100, 1]},
    ...         {"input_ids": [6, 7, 8, 2], "labels": [-100, -100, -100, 2]}]
    >>> common_ending(Dataset.from_list(rows))
    [7, 8]
    """
    rows = rows.select(range(min(LIKE_ROWS, len(rows))))
    prompts = [
        list(takewhile(lambda pair: pair[1] == IGNORED, zip(ids, labels, strict=True)))
        for ids, labels in zip(rows["input_ids"], rows["labels"], strict=True)
    ]
    backwards = [[token for token, _ in reversed(prompt)] for prompt in prompts]
    same = takewhile(lambda tokens: len(set(tokens)) == 1, zip(*backwards, strict=False))
    ending = [tokens[0] for tokens in same]
    return list(reversed(ending or backwards[0][:1]))
