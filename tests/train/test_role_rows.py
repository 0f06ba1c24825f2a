"""Facts about safety rows: they are read by their own form, whatever the form of the task rows."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict
from transformers import PreTrainedTokenizerFast
from trl import SFTConfig

from tests.train import tiny
from trimtab import AlignmentLossConstraint, SafetyAwareSFTTrainer, UserError
from trimtab.data.encoding import IGNORED

TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }} {{ message['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)

FORMS: dict[str, list[dict[str, Any]]] = {
    "text": [{"text": f"w{n} w{n + 1} w{n + 2}"} for n in range(12)],
    "prompt and completion": [
        {"prompt": f"w{n} w{n + 1}", "completion": f" w{n + 2}"} for n in range(12)
    ],
    "messages": [
        {
            "messages": [
                {"role": "user", "content": f"w{n}"},
                {"role": "assistant", "content": f"w{n + 1}"},
            ]
        }
        for n in range(12)
    ],
    "prompt and completion messages": [
        {
            "prompt": [{"role": "user", "content": f"w{n}"}],
            "completion": [{"role": "assistant", "content": f"w{n + 1}"}],
        }
        for n in range(12)
    ],
    "tokens and labels": [
        {"input_ids": [3 + n, 4, 5, 6], "labels": [IGNORED, IGNORED, 5, 6]} for n in range(12)
    ],
    "tokens and a completion mask": [
        {"input_ids": [3 + n, 4, 5, 6], "completion_mask": [0, 0, 1, 1]} for n in range(12)
    ],
    "tokens": [{"input_ids": [3 + n, 4, 5, 6]} for n in range(12)],
}

LEARNED = {
    "text": "w0 w1 w2",
    "prompt and completion": "w2",
    "messages": "w0 w1",
    "prompt and completion messages": "w1",
    "tokens and labels": "5 6",
    "tokens and a completion mask": "5 6",
    "tokens": "3 4 5 6",
}
"""What is to be learned of the first row of each form, special tokens and roles apart."""


def tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    _, loaded = tiny.tiny_llama(folder / "model")
    loaded.chat_template = TEMPLATE
    return loaded


def trainer(
    folder: Path, task: list[dict[str, Any]], safety: Any, **settings: Any
) -> SafetyAwareSFTTrainer:
    model, _ = tiny.tiny_llama(folder / "model")
    more = {name: settings.pop(name) for name in ("formatting_func",) if name in settings}
    return SafetyAwareSFTTrainer(
        model,
        args=tiny.config(folder, max_steps=1, per_device_train_batch_size=4, **settings),
        train_dataset=Dataset.from_list(task),
        safety_dataset=Dataset.from_list(safety) if isinstance(safety, list) else safety,
        objective=AlignmentLossConstraint(1.0),
        processing_class=tokenizer(folder),
        **more,
    )


def learned(role_trainer: SafetyAwareSFTTrainer, form: str) -> str:
    assert role_trainer.safety_stream is not None
    row = role_trainer.safety_stream.rows[0]
    labels = [token for token in row["labels"] if token != IGNORED]
    assert all(label in (IGNORED, token) for token, label in zip(*row.values(), strict=True))
    if form.startswith("tokens"):
        return " ".join(map(str, labels))
    words = role_trainer.processing_class.convert_ids_to_tokens(labels)
    return " ".join(word for word in words if word.startswith("w"))


@pytest.mark.parametrize(("task", "safety"), list(product(FORMS, FORMS)))
def test_what_is_learned_of_a_safety_row_is_its_own_forms(
    task: str, safety: str, tmp_path: Path
) -> None:
    role_trainer = trainer(tmp_path, FORMS[task], FORMS[safety])
    assert learned(role_trainer, safety) == LEARNED[safety]
    role_trainer.train()


@pytest.mark.parametrize("safety", FORMS)
def test_completions_and_prompts_are_both_learned_where_that_is_asked_for(
    safety: str, tmp_path: Path
) -> None:
    role_trainer = trainer(tmp_path, FORMS["text"], FORMS[safety], completion_only_loss=False)
    everything = {
        "prompt and completion": "w0 w1 w2",
        "prompt and completion messages": "w0 w1",
        "tokens and a completion mask": "3 4 5 6",
    }
    assert learned(role_trainer, safety) == everything.get(safety, LEARNED[safety])


def question(row: dict[str, Any]) -> str:
    return f"{row['question']} {row['answer']}"


@pytest.mark.parametrize("safety", ["prompt and completion", "tokens and labels"])
def test_a_formatting_function_is_not_for_rows_that_need_none(safety: str, tmp_path: Path) -> None:
    task = [{"question": f"w{n}", "answer": f"w{n + 1}"} for n in range(12)]
    role_trainer = trainer(tmp_path, task, FORMS[safety], formatting_func=question)
    assert learned(role_trainer, safety) == LEARNED[safety]
    role_trainer = trainer(tmp_path, task, task, formatting_func=question)
    assert learned(role_trainer, "question") == "w0 w1"


def test_each_role_is_trained_on_its_own_tokens(tmp_path: Path) -> None:
    role_trainer = trainer(tmp_path, FORMS["text"], FORMS["prompt and completion"])
    role_trainer.train()
    batch = role_trainer.safety_stream.batch(0)  # type: ignore[union-attr]
    assert ((batch["labels"] != IGNORED).sum(dim=1) <= 2).all()  # a word and the end
    assert role_trainer.completion_only_loss is False  # the task's own reading, as TRL left it


UNREADABLE: dict[str, tuple[Any, str]] = {
    "a stream": (Dataset.from_list(FORMS["text"]).to_iterable_dataset(), "a stream"),
    "a dictionary": (DatasetDict({"train": Dataset.from_list(FORMS["text"])}), "a dictionary"),
    "a plain dictionary": ({"train": Dataset.from_list(FORMS["text"])}, "a dictionary"),
    "nothing": (None, "needs safety rows"),
    "no row": (Dataset.from_list(FORMS["text"]).select([]), "no safety row"),
    "images": (Dataset.from_list([{"text": "w0", "image": 0}] * 4), "images"),
    "other columns": (Dataset.from_list([{"question": "w0", "answer": "w1"}] * 4), "question"),
    "a transform": (
        Dataset.from_list(FORMS["text"]).with_transform(lambda rows: rows),
        "with_transform",
    ),
    "labels that are all masked": (
        Dataset.from_list([{"input_ids": [3, 4], "labels": [IGNORED, IGNORED]}] * 4),
        "none of the 4 safety rows",
    ),
    "a label on the first token alone": (
        Dataset.from_list([{"input_ids": [3, 4], "labels": [3, IGNORED]}] * 4),
        "none of the 4 safety rows",
    ),
    "completions cut off": (
        Dataset.from_list([{"input_ids": [3] * 12 + [4], "labels": [IGNORED] * 12 + [4]}] * 4),
        "none of the 4 safety rows",
    ),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_read_is_refused_before_training(name: str, tmp_path: Path) -> None:
    safety, reason = UNREADABLE[name]
    with pytest.raises(UserError, match=reason):
        trainer(tmp_path, FORMS["text"], safety, max_length=8)


def test_a_formatting_function_that_takes_no_safety_row_is_told(tmp_path: Path) -> None:
    def question(row: dict[str, Any]) -> str:
        return str(row["question"])

    task = [{"question": f"w{n} w{n + 1}"} for n in range(12)]
    with pytest.raises(UserError, match=r"formatting_func fails .*'question'.* columns are text"):
        trainer(tmp_path, task, FORMS["text"], formatting_func=question)
    trainer(tmp_path, task, FORMS["prompt and completion"], formatting_func=question)


def test_safety_rows_that_a_collator_is_to_prepare_are_refused(tmp_path: Path) -> None:
    unprepared = {"dataset_kwargs": {"skip_prepare_dataset": True}}
    with pytest.raises(UserError, match="skip_prepare_dataset leaves rows to the data collator"):
        trainer(tmp_path, FORMS["tokens and labels"], FORMS["text"], **unprepared)
    trainer(tmp_path, FORMS["tokens and labels"], FORMS["tokens and labels"], **unprepared)


def test_rows_without_a_label_are_left_out_and_told(tmp_path: Path) -> None:
    masked = [{"input_ids": [3, 4, 5, 6], "labels": [IGNORED] * 4}] * 3
    with pytest.warns(UserWarning, match="3 of 15 safety rows are left out"):
        role_trainer = trainer(tmp_path, FORMS["text"], FORMS["tokens and labels"] + masked)
    assert role_trainer.safety_stream is not None
    assert len(role_trainer.safety_stream.rows) == 12


def test_who_speaks_has_to_be_known_where_only_the_assistant_is_learned(tmp_path: Path) -> None:
    # Only the argument that decides is looked at: TRL's own checks of a template come before.
    from trimtab.train.role_rows import RowForm

    args = SFTConfig(str(tmp_path), assistant_only_loss=True, use_cpu=True, bf16=False)
    with pytest.raises(UserError, match="who speaks"):
        RowForm.of(Dataset.from_list(FORMS["text"]), args, None)
    chat = RowForm.of(Dataset.from_list(FORMS["messages"]), args, None)
    assert chat.assistant_only_loss
    pairs = RowForm.of(Dataset.from_list(FORMS["prompt and completion"]), args, None)
    assert (pairs.assistant_only_loss, pairs.completion_only_loss) == (False, True)
