"""Facts about options: generated from the settings' dataclasses, no default typed twice."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import MISSING, fields, replace
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import yaml

import trimtab
from tests.cli.test_one_line import assert_one_line, invoke, train
from trimtab.cli.audit import audit as audit_command
from trimtab.cli.commands import COMMANDS
from trimtab.cli.evaluate import evaluate as evaluate_command
from trimtab.cli.options import answers_of, experiment_of
from trimtab.cli.settings import help_of, named_values
from trimtab.cli.train import train as train_command
from trimtab.config.audit_settings import AuditSettings
from trimtab.config.data_source import DataSource, Lengths
from trimtab.config.experiment import Answers, Block, Dial, Experiment, Measuring, Training
from trimtab.config.loading import Loading
from trimtab.errors import UserError
from trimtab.results.generations import Decoding

EVERY_OPTION_OF_BEFORE = {
    "train": "model task safety out original penalty radius budget case task-where safety-where "
    "original-where steps batch-size learning-rate lora-rank precision max-prompt max-response "
    "held-out-rows checkpoint-every seed restart dry-run",
    "dial train": "model task safety out original safest-penalty capable-penalty task-where "
    "safety-where original-where steps batch-size learning-rate lora-rank safety-target precision "
    "max-prompt max-response held-out-rows checkpoint-every seed restart dry-run",
}


def help_text(*command: str) -> str:
    result = invoke(*command, "--help")
    assert result.exit_code == 0
    return " ".join(result.output.split())


@pytest.mark.parametrize("command", EVERY_OPTION_OF_BEFORE)
def test_no_option_was_lost(command: str) -> None:
    text = help_text(*command.split())
    assert [o for o in EVERY_OPTION_OF_BEFORE[command].split() if f"--{o} " not in text] == []


def test_every_setting_of_a_training_is_an_option_with_its_default_range_and_doc() -> None:
    text = help_text("train")
    options = signature(train_command).parameters
    for field in fields(Training):
        assert f"--{field.name.replace('_', '-')} " in text
        assert help_of(Training, field.name) in text
        if field.default is not MISSING:
            assert options[field.name].default == field.default
    assert "Typing" not in text
    assert "Annotated" not in text


@pytest.mark.parametrize(
    "kind", [Training, Lengths, DataSource, Dial, Measuring, Block, Answers, Experiment]
)
def test_every_setting_is_described(kind: Any) -> None:
    for field in fields(kind):
        assert len(help_of(kind, field.name)) > 3


def recorded(world: Path, out: Path, *more: object) -> dict[str, Any]:
    result = train(world, "--out", out, *more)
    assert result.exit_code == 0, result.output
    record: dict[str, Any] = yaml.safe_load((out / "experiment.yaml").read_text())
    return record


def test_options_reach_the_experiment(world: Path, tmp_path: Path) -> None:
    options = ["--sft", "weight_decay=0.01", "--sft", "adam_beta2=0.9", "--lora-rank", 2]
    options += ["--lora", "target_modules=q_proj,v_proj", "--schedule", "cosine"]
    options += ["--no-length-bucketing", "--max-prompt", 16, "--held-out-rows", 3]
    record = recorded(world, tmp_path / "out", *options)
    assert record["train"]["sft"] == {"weight_decay": 0.01, "adam_beta2": 0.9}
    assert record["train"]["lora"] == {"target_modules": "q_proj,v_proj"}
    assert (record["train"]["schedule"], record["train"]["length_bucketing"]) == ("cosine", False)
    assert (record["lengths"], record["task"]["task"]["held_out_rows"]) == (
        {"prompt": 16, "response": 512},
        3,
    )


def test_a_model_in_a_folder_is_recorded_by_its_whole_path(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = DataSource(str(next(world.rglob("*.jsonl"))))
    monkeypatch.chdir(world)
    for name, expected in (("base", str(world / "base")), ("smollm2", "smollm2")):
        made = experiment_of(
            name, source, source, None, None, grid=(Block("alignment-loss", (1.0,)),)
        )
        assert made.model == expected


def test_without_options_the_experiment_has_the_defaults_of_the_library(
    world: Path, tmp_path: Path
) -> None:
    record = recorded(world, tmp_path / "out")
    plain = {
        field.name: field.default for field in fields(Training) if field.default is not MISSING
    }
    defaults = plain | {"steps": 1, "sft": {}, "lora": {}}
    assert record["train"] == {name: value for name, value in defaults.items() if value is not None}


@pytest.mark.parametrize(
    ("option", "answer"),
    [
        (
            "--sft=wieght_decay=1",
            "--sft wieght_decay is no field of trl.SFTConfig. Did you mean --sft weight_d",
        ),
        (
            "--sft=learning_rate=1",
            "--sft learning_rate is the setting learning_rate (--learning-rate).",
        ),
        ("--sft=max_length=1", "--sft max_length cannot be set"),
        ("--sft=optim=sgdd", "--sft optim: sgdd is not a valid"),
        ("--sft=weight_decay", "--sft 'weight_decay' is no setting. Write --sft NAME=VALUE."),
        ("--sft=weight_decay=[", "--sft 'weight_decay=[' has no value that YAML can read."),
        (
            "--lora=target_modules=q_proj",
            "--lora is given, and no rank of the adapter. Give lora_rank (--lora-rank).",
        ),
        ("--epochs=2", "Give one of them."),
    ],
)
@pytest.mark.parametrize("dry", [True, False])
def test_a_mistake_in_a_library_setting_is_one_line_before_any_training(
    option: str, answer: str, dry: bool, world: Path, tmp_path: Path
) -> None:
    arguments = ["--steps", 2, "--out", tmp_path / "out", option] + ["--dry-run"] * dry
    line = assert_one_line(train(world, *arguments))
    assert answer in line
    assert not (tmp_path / "out").exists()


def test_a_setting_given_twice_is_refused() -> None:
    with pytest.raises(UserError, match="--sft a is given twice"):
        named_values("--sft", ["a=1", "a=2"])


def test_a_dial_takes_twice_the_steps_of_a_run() -> None:
    assert f"Optimizer steps. [default: {2 * Training.steps}]" in help_text("dial", "train")


def test_a_dial_passes_settings_on_and_is_not_trained_by_epochs(
    world: Path, tmp_path: Path
) -> None:
    data, out = world / "data", tmp_path / "dial"
    command: list[object] = ["dial", "train", "--model", world / "base", "--out", out, "--steps", 2]
    command += ["--task", data / "task-shared.jsonl", "--safety", data / "safety-near.jsonl"]
    line = assert_one_line(invoke(*command, "--sft", "num_train_epochs=1"))
    assert "each says how long to train" in line
    assert "--sft optim" in assert_one_line(invoke(*command, "--sft", "optim=sgdd"))
    assert not out.exists()
    result = invoke(*command, "--sft", "weight_decay=0.5", "--end-share", 0.25)
    assert result.exit_code == 0, result.output
    record = yaml.safe_load((out / "experiment.yaml").read_text())
    assert record["train"]["sft"] == {"weight_decay": 0.5}
    assert (record["train"]["steps"], record["dial"]["end_share"]) == (2, 0.25)


def test_the_options_of_an_audit_have_the_defaults_of_its_settings() -> None:
    options = signature(audit_command).parameters
    elsewhere = ("lengths", "load")
    settings = [field for field in fields(AuditSettings) if field.name not in elsewhere]
    for field in fields(Loading):
        assert options[field.name].default == field.default, field.name
    for field in settings:
        assert options[field.name].default == field.default, field.name
    assert options["max_prompt"].default == Lengths.prompt
    assert options["max_response"].default == Lengths.response


def test_the_options_of_an_evaluation_have_the_defaults_of_decoding() -> None:
    options = signature(evaluate_command).parameters
    for field in fields(Decoding):
        assert options[field.name].default == field.default, field.name


def test_the_package_runs_and_says_its_version() -> None:
    for module in ("trimtab", "trimtab.cli"):
        result = subprocess.run(
            [sys.executable, "-m", module, "--version"], capture_output=True, text=True, check=False
        )
        assert (result.returncode, result.stdout) == (0, f"trimtab {trimtab.__version__}\n")
    assert "--show-completion" in help_text()


def test_the_help_groups_commands_by_what_a_person_wants() -> None:
    lines = invoke("--help").output.splitlines()
    panels = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert panels == ["Options:", *(f"{panel}:" for panel in COMMANDS)]
    for panel, functions in COMMANDS.items():
        below = lines[lines.index(f"{panel}:") + 1 :]
        names = [line.split()[0] for line in below[: below.index("") if "" in below else None]]
        assert {function.__name__ for function in functions} <= set(names)


def test_options_stand_in_the_place_of_what_the_file_asks() -> None:
    of_file = Answers((DataSource("h.jsonl", rows=4),), (DataSource("b.jsonl"),), tokens=8)
    assert answers_of(None, None, None, of_file) == of_file
    assert answers_of(None, None, ["qwen3guard"], of_file) == replace(
        of_file, judges=("qwen3guard",)
    )
    asked = answers_of(["other.jsonl"], None, None, of_file)
    assert asked == replace(of_file, harmful=(DataSource("other.jsonl"),))
    assert answers_of(None, None, None) is None
    with pytest.raises(UserError, match="--judge has nothing to judge"):
        answers_of(None, None, ["qwen3guard"])
