"""Batches of two roles: rows padded to one width, or sequences one after another in one row."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from datasets import Dataset, IterableDataset
from torch import Tensor
from torch.nn.functional import pad

from trimtab.data.encoding import IGNORED
from trimtab.errors import UserError

Batch = dict[str, Any]
"""Columns by name, as a data collator of TRL gives them."""

ROLE = "is_safety"
"""The column of roles: of shape (rows, 1) where rows are padded, else (1, tokens)."""

_BOUNDARIES = ("cu_seq_lens_q", "cu_seq_lens_k")
_LONGEST = ("max_length_q", "max_length_k")
_PADDED_WITH = {"labels": IGNORED, "attention_mask": 0, "position_ids": 0, "token_type_ids": 0}
_READ = (
    *("input_ids", "attention_mask", "position_ids", "token_type_ids"),
    *_BOUNDARIES,
    *_LONGEST,
    "seq_idx",
)


def is_padding_free(batch: Batch) -> bool:
    """Whether the batch's sequences follow each other in one row, told apart by their positions."""
    return _BOUNDARIES[0] in batch


def model_inputs(batch: Batch) -> Batch:
    """What a model reads of a batch to give logits."""
    return {name: batch[name] for name in _READ if name in batch}


def sequences_in(batch: Batch) -> int:
    """How many sequences a batch holds: rows, where they are padded."""
    return len(batch[_BOUNDARIES[0]]) - 1 if is_padding_free(batch) else len(batch["labels"])


def join(task: Batch, safety: Batch, pad_token_id: int) -> Batch:
    """One batch of both roles, the task's first, with the column `is_safety`.

    Padded rows become as wide as the widest and are padded on the right.

    Raises:
        UserError: the collator gives no attention mask, or a column that cannot be joined.
    """
    device = task["labels"].device
    safety = {n: x.to(device) if isinstance(x, Tensor) else x for n, x in safety.items()}
    if is_padding_free(task):
        return _join_padding_free(task, safety)
    padding = {"input_ids": pad_token_id, **_PADDED_WITH}
    for batch in (task, safety):
        _require_columns(batch, padding)
    padding = {name: value for name, value in padding.items() if name in task and name in safety}
    joined = {name: _stack(task[name], safety[name], value) for name, value in padding.items()}
    joined[ROLE] = _roles(len(task["labels"]), len(safety["labels"]), device)[:, None]
    return joined


def _require_columns(batch: Batch, known: Collection[str]) -> None:
    if "attention_mask" not in batch:
        raise UserError(
            "the data collator gives no attention_mask, by which rows of two widths are joined. "
            "Have it give one."
        )
    if unknown := [name for name in batch if name not in known]:
        raise UserError(
            f"the data collator gives {', '.join(unknown)}, which safety rows cannot be put beside "
            "task rows with. Leave that out of its batches."
        )


def by_role(batch: Batch) -> tuple[Batch, Batch]:
    """The task's part and the safety part of a joined batch, neither with a column of roles."""
    role = batch[ROLE]
    if not is_padding_free(batch):
        return take(batch, ~role[:, 0]), take(batch, role[:, 0])
    cut = int((~role).sum())
    sequence = int(batch["seq_idx"][0, cut]) if cut < role.shape[1] else sequences_in(batch)
    return _cut(batch, slice(0, cut), sequence, 0), _cut(batch, slice(cut, None), None, sequence)


def take(batch: Batch, mask: Tensor) -> Batch:
    """The rows of a padded batch where `mask`, of shape (rows,), is true."""
    return {
        name: value[mask]
        for name, value in batch.items()
        if name != ROLE and isinstance(value, Tensor) and len(value) == len(mask)
    }


def role_of_labels(batch: Batch) -> Tensor:
    """Which next-token labels are of safety rows; broadcasts to (rows, width − 1)."""
    role: Tensor | None = batch.get(ROLE)
    if role is None:
        return torch.zeros_like(batch["labels"][:, :1], dtype=torch.bool)
    return role[:, 1:] if is_padding_free(batch) else role


def unpacked(rows: Dataset) -> Dataset:
    """Each sequence of packed rows as a row of its own; rows that are not packed, as they are."""
    if "seq_lengths" not in rows.column_names:
        return rows

    def apart(packs: dict[str, list[list[int]]]) -> dict[str, list[list[int]]]:
        sequences: dict[str, list[list[int]]] = {"input_ids": [], "labels": []}
        for name, pieces in sequences.items():
            for values, lengths in zip(packs[name], packs["seq_lengths"], strict=True):
                ends = torch.tensor(lengths).cumsum(0).tolist()
                begins = [0, *ends[:-1]]
                pieces += [values[a:b] for a, b in zip(begins, ends, strict=True)]
        return sequences

    return rows.map(apart, batched=True, remove_columns=rows.column_names)


def sequences_per_row(rows: Dataset | IterableDataset) -> float:
    """How many sequences a row holds on average: 1, unless rows are packed."""
    if not isinstance(rows, Dataset) or "seq_lengths" not in rows.column_names:
        return 1.0
    return sum(map(len, rows["seq_lengths"])) / len(rows)


def _join_padding_free(task: Batch, safety: Batch) -> Batch:
    tokens = ("input_ids", "labels", "position_ids")
    joined = {name: torch.cat([task[name], safety[name]], dim=1) for name in tokens}
    width, count = task["labels"].shape[1], sequences_in(task)
    for name in _BOUNDARIES:
        joined[name] = torch.cat([task[name], safety[name][1:] + width])
    joined |= {name: max(task[name], safety[name]) for name in _LONGEST}
    joined["seq_idx"] = torch.cat([task["seq_idx"], safety["seq_idx"] + count], dim=1)
    joined[ROLE] = _roles(width, safety["labels"].shape[1], task["labels"].device)[None]
    return joined


def _cut(batch: Batch, columns: slice, last: int | None, first: int) -> Batch:
    """The sequences from number `first` to `last` of one row, which stand in these columns."""
    tokens = ("input_ids", "labels", "position_ids")
    part = {name: batch[name][:, columns] for name in tokens}
    end = None if last is None else last + 1
    for name, longest in zip(_BOUNDARIES, _LONGEST, strict=True):
        part[name] = batch[name][first:end] - batch[name][first]
        part[longest] = batch[longest]
    part["seq_idx"] = batch["seq_idx"][:, columns] - first
    return part


def _roles(task: int, safety: int, device: torch.device) -> Tensor:
    return torch.tensor([0] * task + [1] * safety, dtype=torch.bool, device=device)


def _stack(upper: Tensor, lower: Tensor, value: int) -> Tensor:
    width = max(upper.shape[1], lower.shape[1])
    return torch.cat([_widen(upper, width, value), _widen(lower, width, value)])


def _widen(rows: Tensor, width: int, value: int) -> Tensor:
    return pad(rows, (0, width - rows.shape[1]), value=value)
