"""Facts about numbers that may be chosen: each states its range, and is held to it everywhere."""

from __future__ import annotations

import dataclasses
import importlib
import math
import pkgutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import yaml
from typer.testing import CliRunner

import trimtab.train.baselines
from trimtab.cli import app
from trimtab.cli.commands import COMMANDS
from trimtab.cli.dial import dial
from trimtab.config.ranges import Range, Stated, stated
from trimtab.config.yaml_io import parse_experiment
from trimtab.errors import UserError

MODULES = [
    "trimtab.config.data_source",
    "trimtab.config.experiment",
    "trimtab.config.audit_settings",
    "trimtab.results.generations",
    "trimtab.train.objectives.alignment_loss",
    "trimtab.train.objectives.alignment_parameter",
    "trimtab.train.objectives.budget",
    *(
        f"trimtab.train.baselines.{module.name}"
        for module in pkgutil.iter_modules(trimtab.train.baselines.__path__)
    ),
]
NOT_CHOSEN = {"Row", "Step", "BudgetOutcome", "Adapter", "AskedPrompt", "Generation"}
"""Dataclasses of these modules that hold what a program passes on, not what a person chooses."""
NEEDED: dict[str, dict[str, Any]] = {
    "Block": {"case": "alignment-loss"},
    "DataSource": {"path": "task.jsonl"},
    "Answers": {"harmful": ("prompts.jsonl",)},
    "Experiment": {"model": "m", "task": {"t": 1}, "safety": {"s": 1}, "grid": (1,)},
}


def settings_classes() -> list[type]:
    classes: dict[str, type] = {}
    for name in MODULES:
        for member in vars(importlib.import_module(name)).values():
            if (
                isinstance(member, type)
                and dataclasses.is_dataclass(member)
                and member.__module__ in MODULES
            ):
                classes[member.__name__] = member
    return [kind for name, kind in sorted(classes.items()) if name not in NOT_CHOSEN]


def is_number(hint: Any) -> bool:
    if hint in (int, float):
        return True
    return get_origin(hint) is not dict and any(is_number(part) for part in get_args(hint))


def numbers() -> Iterator[tuple[type, str, Any]]:
    for kind in settings_classes():
        hints = get_type_hints(kind, include_extras=True)
        for field in dataclasses.fields(kind):
            if is_number(hints[field.name]):
                yield kind, field.name, hints[field.name]


NUMBERS = list(numbers())
IDS = [f"{kind.__name__}.{name}" for kind, name, _ in NUMBERS]


def test_the_walk_finds_every_kind_of_setting() -> None:
    assert {"Training.steps", "Training.lora_alpha", "Block.radii", "DataSource.held_out"} < set(
        IDS
    )
    assert {"Lengths.prompt", "AuditSettings.drop", "EWC.penalty", "RESTA.seed"} < set(IDS)
    assert {"Budget.budget", "Experiment.seeds", "Dial.end_share"} < set(IDS)
    assert len(IDS) > 50


@pytest.mark.parametrize(("kind", "name", "hint"), NUMBERS, ids=IDS)
def test_every_number_states_its_range(kind: type, name: str, hint: Any) -> None:
    assert stated(hint) is not None, f"{kind.__name__}.{name}: annotate it with a Range"


def outside(number_range: Stated) -> list[float]:
    """Numbers that a range leaves out: at its ends, beyond them, and none at all."""
    ends = number_range.range
    beyond: list[float] = [math.nan, -math.inf]
    beyond += [] if ends.infinity else [math.inf]
    beyond += [] if ends.at_least is None else [ends.at_least - (1 if number_range.whole else 1e-9)]
    beyond += [] if ends.above is None else [ends.above]
    beyond += [] if ends.at_most is None else [ends.at_most + (1 if number_range.whole else 1e-9)]
    beyond += [] if ends.below is None else [ends.below]
    return beyond


@pytest.mark.parametrize(("kind", "name", "hint"), NUMBERS, ids=IDS)
def test_a_number_out_of_its_range_is_refused_in_one_line(kind: type, name: str, hint: Any) -> None:
    number_range = stated(hint)
    assert number_range is not None
    several = any(get_origin(part) is tuple for part in (hint, *get_args(hint)))
    for value in (*outside(number_range), True, *([1.5] if number_range.whole else [])):
        settings = NEEDED.get(kind.__name__, {}) | {name: (value,) if several else value}
        with pytest.raises(UserError, match=name) as raised:
            kind(**settings)
        assert "\n" not in str(raised.value)


def commands() -> Iterator[tuple[str, Callable[..., Any]]]:
    yield from (
        (function.__name__, function) for functions in COMMANDS.values() for function in functions
    )
    yield from ((f"dial {command.name}", command.callback) for command in dial.registered_commands)  # type: ignore[misc]


NEEDED_OPTIONS = {
    "audit": "--model m --task t --safety s",
    "proxy": "--model m --prompts p --out o",
    "train": "--model m --task t --safety s --out o",
    "sweep": "e.yaml --out o",
    "report": "folder",
    "bounds": "folder",
    "suggest": "folder",
    "repair": "wise-ft --model m --aligned a --out o",
    "evaluate": "m --judge phrases --harmful h --out o",
    "dial train": "--model m --task t --safety s --out o",
    "dial curve": "folder",
    "dial set": "folder --out o",
}
OPTIONS = [
    (command, name, hint)
    for command, function in commands()
    for name, hint in get_type_hints(function, include_extras=True).items()
    if is_number(hint)
]


def test_every_command_with_numbers_is_looked_at() -> None:
    assert len(OPTIONS) > 40
    assert {command for command, _, _ in OPTIONS} > {"train", "audit", "proxy", "dial set"}


@pytest.mark.parametrize(
    ("command", "name", "hint"), OPTIONS, ids=[f"{option[0]}-{option[1]}" for option in OPTIONS]
)
def test_an_option_out_of_its_range_is_one_line(
    command: str, name: str, hint: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    number_range = stated(hint)
    assert number_range is not None, f"{command} {name}: annotate it with a Range"
    option = f"--{name.replace('_', '-')}"
    for value in outside(number_range):
        if number_range.whole and not math.isfinite(value):
            continue
        text = str(int(value)) if number_range.whole else repr(value)
        arguments = [*command.split(), *NEEDED_OPTIONS.get(command, "").split(), option, text]
        shown = CliRunner().invoke(app, arguments)
        assert shown.exit_code == 2, (arguments, shown.output)
        assert shown.output.startswith(f"trimtab: {option} is "), shown.output
        assert shown.output.count("\n") == 1
    assert not list(tmp_path.iterdir())


VALID = {
    "model": "m",
    "task": {"t": {"path": "t.jsonl"}},
    "safety": {"s": {"path": "s.jsonl"}},
    "grid": [{"case": "alignment-loss", "penalties": [1.0]}],
}


@pytest.mark.parametrize(
    "change",
    [
        {"train": {"lora_alpha": 0}},
        {"train": {"lora_rank": -1}},
        {"train": {"max_grad_norm": math.nan}},
        {"train": {"max_grad_norm": -1}},
        {"train": {"learning_rate": math.inf}},
        {"train": {"warmup": -1}},
        {"train": {"warmup": 200, "steps": 200}},
        {"train": {"steps": True}},
        {"train": {"learning_rate": True}},
        {"lengths": {"prompt": 0}},
        {"lengths": {"response": -1}},
        {"measure": {"resamples": 0}},
        {"measure": {"tokens_per_batch": 0}},
        {"seeds": []},
        {"seeds": [-1]},
        {"seeds": [2**32]},
        {"split_seed": -1},
        {"safety": {"s": {"path": "s.jsonl", "lowest_loss": math.nan}}},
        {"safety": {"s": {"path": "s.jsonl", "context_overlap": 1.5}}},
        {"safety": {"s": {"path": " "}}},
        {"safety": {"": "s.jsonl"}},
        {"safety": {"s" * 91: "s.jsonl"}},
        {"task": {"t": "a\0b.jsonl"}},
        {"model": ""},
        {"grid": [{"case": "alignment-loss", "penalties": [math.nan]}]},
        {"grid": [{"case": "alignment-loss", "penalties": [1.0], "tasks": []}]},
        {"grid": [{"case": "alignment-parameter", "radii": [math.nan]}]},
        {"grid": [{"case": "alignment-loss", "budgets": [-math.inf]}]},
        {"dial": {"end_share": math.nan}},
        {"answers": {"harmful": "p.jsonl", "tokens": 0}},
    ],
    ids=str,
)
def test_an_experiment_of_the_impossible_is_refused(change: dict[str, Any]) -> None:
    parse_experiment(yaml.safe_dump(VALID), "e.yaml")
    with pytest.raises(UserError) as raised:
        parse_experiment(yaml.safe_dump(VALID | change), "e.yaml")
    assert str(raised.value).startswith("e.yaml: ")
    assert "\n" not in str(raised.value)


def test_a_range_holds_its_ends_and_no_more() -> None:
    half_open = Range(at_least=0, below=1)
    assert [x in half_open for x in (-1e-9, 0, 0.5, 1)] == [False, True, True, False]
    share = Range(above=0, at_most=1)
    assert [x in share for x in (0, 1e-300, 1, 1.1)] == [False, True, True, False]
    assert math.nan not in Range()
    assert math.inf not in Range(above=0)
    assert math.inf in Range(above=0, infinity=True)
    assert 10**400 in Range()


WORDS = [
    (kind, name)
    for kind in settings_classes()
    for name, hint in get_type_hints(kind).items()
    if get_origin(hint) is Literal
]


@pytest.mark.parametrize(
    ("kind", "name"), WORDS, ids=[f"{kind.__name__}.{name}" for kind, name in WORDS]
)
def test_a_word_that_may_not_stand_there_is_one_line(kind: type, name: str) -> None:
    with pytest.raises(UserError, match=rf"{name} is 'KL'\. Give '.*' or '"):
        kind(**NEEDED.get(kind.__name__, {}) | {name: "KL"})


def test_the_objectives_words_are_among_them() -> None:
    ids = {f"{kind.__name__}.{name}" for kind, name in WORDS}
    assert {"AlignmentLossConstraint.target", "KLAnchor.on", "GradientSurgery.towards"} < ids
