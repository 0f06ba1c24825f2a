"""Rows of the second role, as `trl.SFTTrainer` would have read them in the first place."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from datasets import Dataset, DatasetDict, IterableDataset
from trl import SFTConfig, SFTTrainer
from trl.data_utils import is_conversational

from trimtab.data.encoding import IGNORED
from trimtab.errors import UserError, reason_of
from trimtab.train.batches import sequences_per_row
from trimtab.train.config import own_setting
from trimtab.train.safety_stream import SafetyStream, safety_rows_per_batch

if TYPE_CHECKING:
    from trimtab.train.trainer import SafetyAwareSFTTrainer

_IMAGES = ("image", "images")
_CONVERSATIONS = ("messages", "conversations")


@dataclass(frozen=True)
class RowForm:
    """What `SFTTrainer` decides once, from the first row of its task data, decided for other rows.

    Whether the loss is of completions or of the assistant's messages alone, and whether a
    formatting function is for these rows: each from their own columns.
    """

    completion_only_loss: bool
    assistant_only_loss: bool
    formatting_func: Callable[[dict[str, Any]], str] | None

    @classmethod
    def of(
        cls,
        rows: Any,
        args: SFTConfig,
        formatting_func: Callable[[dict[str, Any]], str] | None,
    ) -> RowForm:
        """The form of a data set.

        Raises:
            UserError: it is no `Dataset`, is empty, has images, or has no column to train on.
        """
        columns = set(_require_dataset(rows).column_names)
        if columns & set(_IMAGES):
            raise UserError(
                "the safety rows have images, and trimtab trains on text. Leave the column "
                f"{' and '.join(sorted(columns & set(_IMAGES)))} out."
            )
        is_tokenized = "input_ids" in columns
        has_completions = not is_tokenized and {"prompt", "completion"} <= columns
        masked = has_completions or "completion_mask" in columns
        completions = args.completion_only_loss
        formatting = (
            None
            if is_tokenized or (has_completions and completions is not False)
            else (formatting_func)
        )
        is_chat = not is_tokenized and formatting is None and is_conversational(rows[0])
        readable = is_tokenized or has_completions or formatting or is_chat
        if not (readable or columns & {args.dataset_text_field, *_CONVERSATIONS}):
            raise UserError(
                f"the safety rows have the columns {', '.join(sorted(columns))}. Give prompt and "
                f"completion, messages, {args.dataset_text_field}, or input_ids with labels."
            )
        if args.assistant_only_loss and not (masked or is_tokenized or is_chat):
            raise UserError(
                "assistant_only_loss=True needs safety rows that say who speaks: give messages, or "
                "prompt and completion."
            )
        return cls(
            completion_only_loss=masked if completions is None else completions,
            assistant_only_loss=args.assistant_only_loss and is_chat and not is_tokenized,
            formatting_func=formatting,
        )

    def settings(self, args: SFTConfig) -> SFTConfig:
        """The trainer's settings, for these rows."""
        own = copy(args)
        own.assistant_only_loss = self.assistant_only_loss
        return own


def prepared_rows(trainer: SFTTrainer, rows: Dataset, form: RowForm) -> Dataset:
    """Rows as `input_ids` and `labels`, as `trainer` prepares task rows of this form.

    Rows without a label to predict are left out, with a warning that counts them.

    Raises:
        UserError: none has a label to predict.
    """
    if form.formatting_func is not None:
        _require_formatted(form.formatting_func, rows[0])
    of_task: bool = trainer.completion_only_loss
    trainer.completion_only_loss = form.completion_only_loss
    try:
        prepared = trainer._prepare_dataset(
            rows,
            trainer.processing_class,
            form.settings(trainer.args),
            False,
            form.formatting_func,
            "safety",
        )
    finally:
        trainer.completion_only_loss = of_task
    places = [
        place
        for place, labels in enumerate(prepared["labels"])
        if any(label != IGNORED for label in labels[1:])
    ]
    if not places:
        raise UserError(
            f"none of the {len(rows)} safety rows has a token to learn: every label is masked. "
            "Give completions that max_length does not cut off."
        )
    if len(places) < len(rows):
        warnings.warn(
            f"{len(rows) - len(places)} of {len(rows)} safety rows are left out: they have no "
            "token to learn.",
            stacklevel=4,
        )
    whole = prepared if len(places) == len(prepared) else prepared.select(places)
    return whole.select_columns(["input_ids", "labels"])


def _require_formatted(formatting_func: Callable[[dict[str, Any]], str], row: Any) -> None:
    try:
        formatting_func(row)
    except Exception as error:  # of whoever wrote it
        raise UserError(
            f"formatting_func fails on the first safety row ({reason_of(error)}), whose columns "
            f"are {', '.join(row)}. Give rows that it takes, or prompt and completion with "
            "completion_only_loss, which need none."
        ) from None


def open_safety_stream(trainer: SafetyAwareSFTTrainer, rows: Dataset | None) -> SafetyStream:
    """The endless stream of a trainer's safety rows.

    Raises:
        UserError: there are none to learn, or they are another share of a batch than the
            objective's own, by more than a row.
    """
    if rows is None:
        name = type(trainer.objective).__name__
        raise UserError(f"{name} needs safety rows. Give safety_dataset.")
    args = trainer.args
    is_prepared = (args.dataset_kwargs or {}).get("skip_prepare_dataset", False)
    if is_prepared and "input_ids" not in _require_dataset(rows).column_names:
        raise UserError(
            "skip_prepare_dataset leaves rows to the data collator, and safety rows are counted "
            "and drawn before. Give them tokenized, with input_ids and labels."
        )
    form = RowForm.of(rows, args, trainer._formatting_func)
    prepared = prepared_rows(trainer, rows, form)
    in_a_row = sequences_per_row(trainer.train_dataset) if trainer.padding_free else 1
    sequences = round(args.per_device_train_batch_size * in_a_row)
    safety_sequences = safety_rows_per_batch(sequences, own_setting(args, "safety_share"))
    share = trainer.objective.safety_share if trainer.objective else None
    if share is not None and abs(safety_sequences - share * (sequences + safety_sequences)) > 1:
        raise UserError(
            f"{type(trainer.objective).__name__} has {share:.3g} of its rows from the safety data, "
            f"and here {safety_sequences} of {sequences + safety_sequences} are. Give "
            f"SafetyAwareSFTConfig safety_share={share:.3g}."
        )
    return SafetyStream(
        prepared,
        trainer.data_collator,
        safety_sequences,
        args.data_seed if args.data_seed is not None else args.seed,
    )


def _require_dataset(rows: Any) -> Dataset:
    if isinstance(rows, IterableDataset):
        raise UserError(
            "the safety rows are a stream, and trimtab counts and draws them. Give a Dataset: "
            "Dataset.from_list(list(stream.take(n)))."
        )
    if isinstance(rows, dict | DatasetDict):
        raise UserError(
            f"the safety rows are a dictionary of data sets ({', '.join(map(str, rows))}). Give "
            "one of them."
        )
    if not isinstance(rows, Dataset):
        raise UserError(f"the safety rows are a {type(rows).__name__}. Give a datasets.Dataset.")
    if rows.format["type"] == "custom":
        raise UserError(
            "the safety rows are transformed on the fly (with_transform). Apply it with "
            "Dataset.map, or give tokenized rows."
        )
    if not len(rows):
        raise UserError("there is no safety row. Give at least one.")
    return rows
