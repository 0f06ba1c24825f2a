"""The loss of a model on held-out rows, with the interval that its rows allow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from accelerate.utils import extract_model_from_parallel
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad
from torch.nn.utils.rnn import pad_sequence

from trimtab.config.experiment import Measuring
from trimtab.data.encoding import IGNORED
from trimtab.data.rows import Row, prompt_numbers, row_weights
from trimtab.errors import UserError
from trimtab.stats import Array as Array
from trimtab.stats import Estimate, loss_estimate, paired_difference, summed


class LossNotFiniteError(UserError):
    """A held-out row's loss is no finite number."""


PER_TOKEN = "nats per token"
PER_RESPONSE = "nats per response"


@dataclass(frozen=True)
class HeldOutRows:
    """Rows to measure on, as token ids, and what they are of a distribution.

    With `weights` the rows enumerate a finite distribution and a loss is exact; without, they are
    draws from a distribution and a loss is an estimate. `prompts` numbers the prompt of each row,
    where several have one: then prompts are what was drawn, each with all its responses.
    """

    rows: Dataset
    weights: Array | None = None
    prompts: NDArray[np.intp] | None = None

    @classmethod
    def of(cls, encoded: Dataset, rows: Sequence[Row], repeats: bool = False) -> Self:
        """What was `encoded` of `rows`; with `repeats` each is a draw, whatever its prompt."""
        weights = row_weights(rows)
        is_by_row = repeats or weights is not None
        return cls(encoded, weights, None if is_by_row else prompt_numbers(rows))


@dataclass(frozen=True)
class Loss:
    """L_D(θ), per completion token and per response, and by row where rows are draws.

    `by_row` has shape (2, rows): nats and tokens of each response. Responses to one prompt are one
    row, with their sums, unless they are draws that may come again.
    """

    per_token: Estimate
    per_response: Estimate
    by_row: Array | None = None


def held_out_loss(
    model: nn.Module, held_out: HeldOutRows, measuring: Measuring, seed: int = 0
) -> Loss:
    """L_D(θ) = E over (x, y)~D of −log P_θ(y|x), and the same divided by the mean length of y.

    Per token it is a ratio of two means, so that a long response counts by its tokens, as it does
    in training. The interval is the studentised bootstrap over rows, those of one prompt together.
    """
    nll, tokens = response_nll(model, held_out.rows, measuring.tokens_per_batch)
    return loss_of_rows(nll, tokens, held_out, measuring, seed)


def loss_of_rows(
    nll: Array, tokens: Array, held_out: HeldOutRows, measuring: Measuring, seed: int = 0
) -> Loss:
    """The same, where −log P_θ(y|x) in nats and the length of each y are known: shape (rows,).

    Raises:
        LossNotFiniteError: a row's loss is no finite number.
    """
    require_finite(nll)
    if held_out.weights is not None:
        weights = held_out.weights / held_out.weights.sum()
        nats, length = float(weights @ nll), float(weights @ tokens)
        return Loss(Estimate.exact(nats / length, PER_TOKEN), Estimate.exact(nats, PER_RESPONSE))
    nats, tokens, responses = summed(np.stack([nll, tokens, np.ones_like(nll)]), held_out.prompts)
    return Loss(
        loss_estimate(nats, tokens, PER_TOKEN, seed, measuring.resamples),
        loss_estimate(nats, responses, PER_RESPONSE, seed, measuring.resamples),
        np.stack([nats, tokens]),
    )


def require_finite(nll: Array) -> None:
    """Raises LossNotFiniteError: of losses of held-out rows one is infinite or no number."""
    broken = int((~np.isfinite(nll)).sum())
    if broken:
        raise LossNotFiniteError(
            f"the loss of {broken} of {len(nll)} held-out rows is not a finite number: the model's "
            "weights are broken. Lower the learning rate or the penalty if they were trained here; "
            "else load the model in another dtype, or give another."
        )


def loss_rise(after: Loss, before: Loss) -> Estimate:
    """L_D(θ) − L_D(θ') of two models on the same held-out rows, nats per token.

    The interval is that of `paired_difference`: what is hard for both models cancels; exact where
    both losses are.
    """
    if after.by_row is None or before.by_row is None:
        return Estimate.exact(after.per_token.value - before.per_token.value, PER_TOKEN)
    return paired_difference(after.by_row, before.by_row).estimate(PER_TOKEN)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[Any]:
    """The model without dropout for a while, whatever happens in it."""
    was_training = model.training
    model.eval()
    try:
        yield model
    finally:
        model.train(was_training)


@torch.no_grad()  # not inference mode: a budget measures in the midst of training
def response_nll(
    model: nn.Module, rows: Dataset, tokens_per_batch: int, passes: int = 0
) -> tuple[Array, Array]:
    """−log P_θ(y|x) in nats and the number of tokens of y, each of shape (rows,).

    At least `passes` passes are made: sharded weights ask the same number of every process.
    """
    nll, tokens = np.empty(len(rows)), np.empty(len(rows))
    with evaluating(model):
        for places, inputs, targets in padded_batches(model, rows, tokens_per_batch):
            # No name for the outputs: it would hold them while the next batch's are computed.
            log_probs = scored(model, inputs, targets)[1]
            nll[places] = -log_probs.sum(dim=1).double().cpu().numpy()
            tokens[places] = (targets[:, 1:] != IGNORED).sum(dim=1).cpu().numpy()
            passes -= 1
        for _ in range(passes):
            device = next(model.parameters()).device
            model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=device))
    return nll, tokens


def tokens_read(rows: Dataset) -> int:
    """How many tokens a forward pass over rows reads, prompts and responses, without padding."""
    return sum(map(len, rows["input_ids"]))


def forward_passes(rows: Dataset, tokens_per_batch: int) -> int:
    """How many batches `padded_batches` makes of rows."""
    lengths = [len(row) for row in rows["input_ids"]]
    return len(list(_batches_of_like_length(lengths, tokens_per_batch)))


def padded_batches(
    model: nn.Module, rows: Dataset, tokens_per_batch: int
) -> Iterator[tuple[list[int], dict[str, Tensor], Tensor]]:
    """Rows of like length together: their places, a model's inputs, targets (rows, width).

    No batch has more than `tokens_per_batch` tokens, padding included, unless one row alone has.
    """
    device = next(model.parameters()).device
    ids = [torch.tensor(row) for row in rows["input_ids"]]
    labels = [torch.tensor(row) for row in rows["labels"]]
    for places in _batches_of_like_length([len(row) for row in ids], tokens_per_batch):
        padded = pad_sequence([ids[place] for place in places], batch_first=True).to(device)
        lengths = torch.tensor([len(ids[place]) for place in places], device=device)
        attended = torch.arange(padded.shape[1], device=device) < lengths[:, None]
        targets = pad_sequence(
            [labels[place] for place in places], batch_first=True, padding_value=IGNORED
        ).to(device)
        yield places, {"input_ids": padded, "attention_mask": attended.long()}, targets


def scored(
    model: nn.Module, inputs: Mapping[str, Any], labels: Tensor, **settings: bool
) -> tuple[Any, Tensor]:
    """What the model gives for a batch, and log P of each next-token label, as `log_probs_of`.

    `settings` are of the model's call.
    """
    outputs, logits = logits_at(model, inputs, labelled_places(labels), **settings)
    return outputs, log_probs_of(logits, labels)


def labelled_places(labels: Tensor) -> Tensor:
    """Which places predict a token with a label: both of shape (rows, width)."""
    return pad(labels[:, 1:] != IGNORED, (0, 1))


def log_probs_of(logits: Tensor, labels: Tensor) -> Tensor:
    """log P of each next-token label, zero where there is none, of shape (rows, width − 1).

    `logits` are those at the labelled places, of shape (places, vocabulary), `labels` of shape
    (rows, width); column t is the label at t + 1.
    """
    counted = labels[:, 1:] != IGNORED
    log_probs = torch.zeros(counted.shape, device=logits.device)
    log_probs[counted] = -cross_entropy(logits.float(), labels[:, 1:][counted], reduction="none")
    return log_probs


def logits_at(
    model: nn.Module, inputs: Mapping[str, Any], places: Tensor, **settings: bool
) -> tuple[Any, Tensor]:
    """What the model gives for a batch, and its logits at `places`, shape (places, vocabulary).

    `places`, of shape (rows, width), says which. The head reads no others: those of prompts and
    padding would take as much time and memory as those of responses.
    """
    with _head_reading(model, places):
        outputs: Any = model(**inputs, **settings)
    logits = outputs.logits
    # A model may score its words by no module of its own, and gives every place's.
    is_chosen = logits.shape[:2] == (1, int(places.sum()))
    return outputs, logits[0] if is_chosen else logits[places]


@contextmanager
def _head_reading(model: nn.Module, places: Tensor) -> Iterator[None]:
    """The model's head reads hidden states of shape (1, places, hidden), of `places` alone."""

    def chosen(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        states, *others = arguments
        return (states[places.to(states.device)][None], *others)

    head = extract_model_from_parallel(model).get_output_embeddings()
    handle = head.register_forward_pre_hook(chosen) if head is not None else None
    try:
        yield
    finally:
        if handle is not None:
            handle.remove()


def _batches_of_like_length(lengths: list[int], tokens_per_batch: int) -> Iterator[list[int]]:
    batch: list[int] = []
    for place in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[place] > tokens_per_batch:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch
