"""Facts about a plan's cost: what training would refuse, the plan refuses; what is cut is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trimtab.config.data_source import DataSource, Lengths
from trimtab.config.experiment import Block, Experiment
from trimtab.config.grid import plan_of
from trimtab.data.splits import read_roles
from trimtab.errors import UserError
from trimtab.models import limits_of, load_model, save_tiny_llama
from trimtab.runner.cost import estimate_cost
from trimtab.runner.evaluator import EncodedRoles


def experiment(folder: Path, longest: int, lengths: Lengths) -> Experiment:
    """Rows of a few words, and one in the end whose prompt and response have `longest` words."""
    save_tiny_llama(["one", "two", *map(str, range(600))], folder / "model", seed=0)
    for name in ("task", "safety"):
        rows = [{"prompt": f"one {n}", "response": "two"} for n in range(600)]
        rows.append({"prompt": "one " * (longest // 2), "response": "two " * (longest // 2 - 1)})
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text)
    return Experiment(
        model=str(folder / "model"),
        task={"task": DataSource("task.jsonl")},
        safety={"safety": DataSource("safety.jsonl")},
        grid=(Block("alignment-loss", (0.0,)),),
        lengths=lengths,
        data_root=str(folder),
    )


@pytest.mark.parametrize(("longest", "is_read"), [(60, True), (64, True), (66, False)])
def test_a_plan_refuses_rows_longer_than_the_model_reads_as_training_does(
    tmp_path: Path, longest: int, is_read: bool
) -> None:
    small = experiment(tmp_path, longest, Lengths())
    roles = read_roles(small)
    model, tokenizer = load_model(small.model)

    def planned() -> object:
        return estimate_cost(small, roles, plan_of(small))

    def trained() -> object:
        return EncodedRoles.of(roles, tokenizer, small.lengths, limits_of(model))

    for look in (planned, trained):
        if is_read:
            look()
        else:
            with pytest.raises(UserError, match=rf"has {longest} tokens, and the model reads 64"):
                look()


def test_rows_that_are_cut_are_told_for_each_data_set(tmp_path: Path) -> None:
    small = experiment(tmp_path, 60, Lengths(prompt=8, response=8))
    roles = read_roles(small)
    model, tokenizer = load_model(small.model)
    messages: list[str] = []
    EncodedRoles.of(roles, tokenizer, small.lengths, limits_of(model), messages.append)
    assert len(messages) == 2
    assert messages[0].startswith("safety safety")
    assert messages[1].startswith("task task")
    assert all(
        "rows 1 prompts are cut to their last 8 tokens and 1 resp" in message
        for message in messages
    )
