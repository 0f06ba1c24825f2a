"""Facts about a plan's cost: what training would refuse, the plan refuses; what is cut is told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from trimtab.config.data_source import DataSource, Lengths
from trimtab.config.experiment import Block, Dial, Experiment, Training
from trimtab.config.grid import plan_of
from trimtab.data.splits import read_roles
from trimtab.errors import UserError
from trimtab.models import limits_of, load_model, save_tiny_llama
from trimtab.runner import cost
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


def test_time_counts_every_model_that_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost, "_speed", lambda: 1e9)
    small = experiment(tmp_path, 60, Lengths())
    roles = read_roles(small)

    def seconds(*settings: float) -> float:
        dial = replace(small, grid=(Block("dial", values=settings),), dial=Dial())
        return estimate_cost(dial, roles, plan_of(dial)).seconds

    one, two, five = seconds(0.5), seconds(0, 1), seconds(0, 0.25, 0.5, 0.75, 1)
    model, tokenizer = load_model(small.model)
    rows = EncodedRoles.of(roles, tokenizer, small.lengths, limits_of(model))
    held_out = [*rows.safety.values(), *rows.task.values()]
    tokens = sum(len(ids) for split in held_out for ids in split.held_out.rows["input_ids"])
    parameters = sum(weight.numel() for weight in model.parameters())
    assert two - one == pytest.approx(2 * parameters * tokens / 1e9, rel=1e-3)
    assert five - one == pytest.approx(4 * (two - one))


def test_memory_is_that_of_aligning_where_that_is_the_heavier_training(tmp_path: Path) -> None:
    small = experiment(tmp_path, 60, Lengths())
    by_adapter = replace(small, train=Training(batch_size=2, lora_rank=2))
    align = Training(batch_size=32)
    aligned = replace(by_adapter, original=small.safety["safety"], align=align)
    all_weights = replace(aligned, train=align)
    adapter, before, all_of_it = (
        estimate_cost(setup, read_roles(setup), plan_of(setup)).memory
        for setup in (by_adapter, aligned, all_weights)
    )
    parameters = sum(weight.numel() for weight in load_model(small.model)[0].parameters())
    assert adapter < before
    assert 16 * parameters < before
    # The start lies beside the weights that are trained, and not beside those it is made of.
    assert before == all_of_it - 4 * parameters


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
