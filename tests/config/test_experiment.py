"""Facts about an experiment's file and its plan."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from trimtab.config.data_source import DataSource
from trimtab.config.experiment import Block, Experiment, Measuring, Training
from trimtab.config.grid import plan_of
from trimtab.config.methods import CASE_1, CASE_2_RADIUS
from trimtab.config.yaml_io import (
    differences,
    parse_experiment,
    read_experiment,
    recipe_names,
    to_yaml,
)
from trimtab.errors import UserError

EXPERIMENT = Experiment(
    model="m",
    task={"code": DataSource("code.jsonl"), "sums": DataSource("sums.jsonl")},
    safety={"near": DataSource("near.jsonl"), "far": DataSource("far.jsonl")},
    grid=(
        Block("alignment-loss", (0.0, 1.0)),
        Block("alignment-parameter", radii=(0.5, float("inf")), tasks=("code",)),
    ),
    seeds=(0, 1),
)


def test_an_experiment_survives_its_file() -> None:
    assert parse_experiment(to_yaml(EXPERIMENT), "e.yaml") == EXPERIMENT


def test_a_source_may_be_a_path_alone() -> None:
    text = """
        {model: m, task: {t: t.jsonl}, safety: {s: s.jsonl},
         grid: [{case: alignment-loss, penalties: [1e-3]}]}
    """
    experiment = parse_experiment(text, "e.yaml")
    assert experiment.task["t"] == DataSource("t.jsonl")
    assert experiment.grid[0].penalties == (0.001,)


def test_what_two_sources_share_may_be_merged_in() -> None:
    text = """
        {model: m, task: {t: t.jsonl},
         safety: {s: &shared {path: s.jsonl, held_out_rows: 5}, u: {<<: *shared, path: u.jsonl}},
         grid: [{case: alignment-loss, penalties: [1]}]}
    """
    experiment = parse_experiment(text, "e.yaml")
    assert experiment.safety["u"] == DataSource("u.jsonl", held_out_rows=5)


VALID = to_yaml(EXPERIMENT)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: [", "e.yaml line 1: expected the node content"),
        ("model: m\nmodel: n", "e.yaml line 2: 'model' is given twice"),
        ("3", "e.yaml: not an experiment"),
        (
            VALID.replace("steps:", "stesp:"),
            "train.stesp is not a setting. Did you mean train.st",
        ),
        (VALID.replace("steps: 200", "steps: many"), "train.steps is 'many'"),
        (VALID.replace("steps: 200", "steps: 0"), "steps is 0. Give a whole number from 1"),
        (VALID.replace("- code", "- cod"), "tasks names 'cod'. Known are code, sums."),
        (VALID.replace("- 0.0\n", "- -1\n"), "must be numbers from 0 up"),
        (VALID + "align: {steps: 3}", "nothing to align on"),
        ("model: m", "e.yaml: task is missing"),
    ],
)
def test_a_mistake_is_one_line_with_its_place(text: str, message: str) -> None:
    with pytest.raises(UserError) as raised:
        parse_experiment(text, "e.yaml")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("change", "answer"),
    [
        ({"train": {"max_prompt": 4}}, "train.max_prompt is not a setting. Did you mean lengths.p"),
        ({"train": {"prompt": 4}}, "train.prompt is not a setting. Did you mean lengths.prompt?"),
        ({"lora_rank": 4}, "lora_rank is not a setting. Did you mean train.lora_rank?"),
        ({"tokens_per_batch": 4}, "Did you mean measure.tokens_per_batch?"),
        ({"task": {"t": {"path": "t", "hold_out": 1}}}, "Did you mean task.t.held_out?"),
        ({"held_out_rows": 4}, "Did you mean task.NAME.held_out_rows?"),
        ({"answers": {"harmful": "p", "tokns": 4}}, "Did you mean answers.tokens?"),
        ({"dial": {"setps": 4}}, "Did you mean dial.steps?"),
        ({"train": {"weight_decay": 0.1}}, "give TRL's settings in train.sft"),
        ({"gird": []}, "gird is not a setting. Did you mean grid?"),
        ({"zzzz": 1}, "zzzz is not a setting. Remove it."),
    ],
    ids=str,
)
def test_a_wrong_key_is_answered_with_the_path_of_the_right_one(
    change: dict[str, Any], answer: str
) -> None:
    with pytest.raises(UserError) as raised:
        parse_experiment(yaml.safe_dump(yaml.safe_load(VALID) | change), "e.yaml")
    assert answer in str(raised.value)


def test_the_path_that_is_named_is_a_setting() -> None:
    record = yaml.safe_load(VALID) | {"lengths": {"prompt": 3}, "train": {"lora_rank": 2}}
    read = parse_experiment(yaml.safe_dump(record), "e.yaml")
    assert (read.lengths.prompt, read.train.lora_rank) == (3, 2)


def test_settings_of_trl_and_peft_survive_the_file() -> None:
    record = yaml.safe_load(VALID)
    record["train"] = {
        "sft": {"weight_decay": 0.01, "report_to": "trackio", "num_train_epochs": 2},
        "lora": {"target_modules": ["q_proj", "v_proj"], "r": 8},
    }
    read = parse_experiment(yaml.safe_dump(record), "e.yaml")
    assert read.train.sft == {"weight_decay": 0.01, "report_to": "trackio"}
    assert (read.train.epochs, read.train.lora_rank) == (2, 8)
    assert read.train.lora == {"target_modules": ["q_proj", "v_proj"]}
    assert parse_experiment(to_yaml(read), "e.yaml") == read


def test_a_pack_holds_the_longest_row_or_is_refused() -> None:
    with pytest.raises(UserError, match="train: packing is 1023 tokens, and a row may have 1024"):
        replace(EXPERIMENT, train=Training(packing=1023))
    assert replace(EXPERIMENT, train=Training(packing=1024)).train.packing == 1024
    with pytest.raises(UserError, match="Give steps, or no packing"):
        Training(packing=1024, epochs=1)


def test_differences_are_of_what_is_trained() -> None:
    recorded = to_yaml(EXPERIMENT)
    assert differences(recorded, replace(EXPERIMENT, data_root="/else", keep_models=True)) == []
    watched = Measuring(every=5, live_rows=64)
    assert differences(recorded, replace(EXPERIMENT, measure=watched)) == []
    kept_oftener = replace(EXPERIMENT.train, checkpoint_every=5)
    assert differences(recorded, replace(EXPERIMENT, train=kept_oftener)) == []
    resampled = replace(EXPERIMENT, measure=Measuring(resamples=50))
    assert differences(recorded, resampled) == ["measure.resamples 2000 → 50"]
    changed = replace(EXPERIMENT, seeds=(0, 2))
    assert differences(recorded, changed) == ["seeds [0, 1] → [0, 2]"]


def test_plain_fine_tuning_is_trained_once_for_every_case_and_proxy() -> None:
    plan = plan_of(EXPERIMENT)
    plain = [run for run in plan.runs if run.training.is_plain and run.training.task == "code"]
    assert [run.training.seed for run in plain] == [0, 1]
    assert {(spec.method, spec.proxy) for spec in plain[0].specs} == {
        (CASE_1, "near"),
        (CASE_1, "far"),
        (CASE_2_RADIUS, "near"),
    }


def test_every_point_is_planned_once() -> None:
    plan = plan_of(EXPERIMENT)
    assert len(plan.specs) == len(set(plan.specs))
    # Per seed: 2 penalties × 2 proxies × 2 tasks, 2 radii on one task; 4 of the aligned model.
    assert len(plan.specs) == 2 * (8 + 2) + 4
    finished = set(plan.specs[:7])
    assert set(plan.without(finished).specs) == set(plan.specs) - finished


def test_every_recipe_is_an_experiment() -> None:
    assert {"llama-2-7b", "smollm2", "smollm2-safety"} <= set(recipe_names())
    for name in recipe_names():
        read = read_experiment(Path(name))
        assert read.align is not None
        assert len(read.safety) > 1
        assert len(read.task) > 1
        assert {block.case for block in read.grid} == {"alignment-loss", "alignment-parameter"}


def test_a_recipe_looks_for_data_in_the_working_folder() -> None:
    assert read_experiment(Path("smollm2")).data_root == str(Path.cwd())


def test_a_file_comes_before_a_recipe_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("smollm2").write_text("not: an experiment")
    with pytest.raises(UserError, match="not"):
        read_experiment(Path("smollm2"))


def test_what_is_neither_file_nor_recipe_names_the_recipes() -> None:
    with pytest.raises(UserError, match="smollm2-safety"):
        read_experiment(Path("nowhere"))
