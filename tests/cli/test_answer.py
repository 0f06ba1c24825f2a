"""Facts about the last lines of train and sweep: they answer the question, in numbers."""

from __future__ import annotations

import json
import shlex
import shutil
from dataclasses import fields, replace
from pathlib import Path

import pytest
import typer

from tests.cli.test_one_line import invoke, train
from trimtab.analysis.changes import (
    SAFETY_LOSS,
    LossChange,
    RateChange,
    less_safe_in_words,
    loss_changes,
)
from trimtab.analysis.choices import choices
from trimtab.analysis.labels import before_and_after, change_in_words
from trimtab.cli import app
from trimtab.cli.answer import evaluate_command
from trimtab.config.data_source import DataSource
from trimtab.config.experiment import Block, Experiment, Training
from trimtab.config.loading import Loading
from trimtab.data.synthetic import CONTEXTS
from trimtab.evaluate.rates import REFUSALS
from trimtab.results.per_row_losses import RowLosses
from trimtab.results.store import read_points
from trimtab.stats import Estimate


def test_train_ends_with_what_it_changed_and_what_to_do_next(world: Path, tmp_path: Path) -> None:
    result = train(world, "--out", tmp_path / "out", "--steps", 2, "--held-out-rows", 12)
    assert result.exit_code == 0, result.output
    *_, answer, less_safe, page, judge, plain = result.output.splitlines()
    points = read_points(tmp_path / "out")
    safety, task = loss_changes([points[1]], points, RowLosses(tmp_path / "out"))
    for change in (safety, task):
        assert change.start is not None
        assert change.change is not None
        assert change.change.low < change.change.value < change.change.high
        assert before_and_after(change.start, change.now, change.change) in answer
    assert answer.startswith("Safety loss ")
    assert answer.endswith(f"; the model is in {tmp_path / 'out/models' / str(points[1].model)}.")
    assert str(tmp_path / "out" / "report.html") in page
    assert judge.startswith("To have its answers judged: trimtab evaluate ")
    assert less_safe == f"Less safe than the start? {less_safe_in_words([safety, task], [])}."
    assert plain == (
        "What plain fine-tuning does: the same command with --penalty 0 and another --out."
    )


@pytest.mark.parametrize(
    ("load", "read_back"),
    [
        (Loading(), Loading()),
        (Loading("bfloat16", attention="eager"), Loading("bfloat16", attention="eager")),
        (Loading("float16", device_map="auto"), Loading("float16", device_map="auto")),
        (Loading("bfloat16", "nf4", double_quantization=False), Loading("bfloat16")),
        (Loading(quantization="int8"), Loading("auto")),
    ],
)
def test_the_command_to_evaluate_loads_as_the_training_did(
    load: Loading, read_back: Loading
) -> None:
    """But for quantised weights, into which evaluate would refuse to merge the adapter."""
    experiment = Experiment(
        model="a model",
        task={"task": DataSource("task.jsonl")},
        safety={"safety": DataSource("safety.jsonl")},
        train=Training(lora_rank=2),
        grid=(Block("alignment-loss", (1.0,)),),
        load=load,
    )
    command = evaluate_command(experiment, Path("an out"), Path("an out/models/m"))
    assert command is not None
    trimtab, name, *words = shlex.split(command)
    context = typer.main.get_command(app).commands[name].make_context(name, words)  # type: ignore[attr-defined]
    assert trimtab == "trimtab"
    assert context.params["models"] == ["a model", "an out/models/m"]
    names = [field.name for field in fields(Loading) if field.name != "revision"]
    assert Loading(**{name: context.params[name] for name in names}) == read_back
    pinned = replace(experiment, load=replace(load, revision="v1"))
    assert evaluate_command(pinned, Path("out"), Path("m")) is None


@pytest.mark.parametrize("option", ["--radius", "--budget"])
def test_plain_fine_tuning_is_told_in_place_of_the_constraint(
    option: str, world: Path, tmp_path: Path
) -> None:
    result = train(world, "--out", tmp_path, "--steps", 1, "--held-out-rows", 12, option, 0.3)
    assert result.exit_code == 0, result.output
    told = f"the same command with --penalty 0 in place of {option} and another --out."
    assert result.output.splitlines()[-1].endswith(told)


def test_whether_a_model_is_less_safe_is_told_by_what_was_measured() -> None:
    def change(low: float, high: float) -> Estimate:
        return Estimate((low + high) / 2, low, high, "nats per token", "estimate")

    def told(refusals: Estimate | None, loss: Estimate | None) -> str:
        rates = [RateChange(REFUSALS, 96, None, refusals, refusals)] if refusals else []
        losses = [LossChange(SAFETY_LOSS, "near", None, loss, loss)] if loss else []
        return less_safe_in_words(losses, rates)

    fewer, open_, more = change(-0.9, -0.5), change(-0.1, 0.1), change(0.2, 0.4)
    assert told(fewer, more) == "By refusals: yes; by the safety loss: yes"
    assert told(more, fewer) == "By refusals: no, it gained; by the safety loss: no, it gained"
    assert told(open_, more) == (
        "By refusals: not told, its interval holds no change; by the safety loss: yes"
    )
    assert told(None, None) == "That was not measured"


def test_a_paired_change_is_that_of_the_rows(world: Path, tmp_path: Path) -> None:
    assert train(world, "--out", tmp_path, "--held-out-rows", 12).exit_code == 0
    rows, (start, point) = RowLosses(tmp_path), read_points(tmp_path)
    change = loss_changes([point], [start, point], rows)[-1].change
    paired = rows.difference(f"task:{point.task}", str(point.model), str(start.model))
    assert change is not None
    assert paired is not None
    assert change.value == pytest.approx(paired.value)
    assert change.high - change.low == pytest.approx(2 * paired.half_width)


def test_sweep_ends_with_the_settings_by_task_loss_and_how_to_choose(
    world: Path, tmp_path: Path
) -> None:
    shutil.copytree(world / "done", tmp_path / "is done")
    result = invoke("sweep", world / "experiment.yaml", "--out", tmp_path / "is done")
    assert result.exit_code == 0, result.output
    lines = [line.rstrip() for line in result.output.splitlines()]
    folder = tmp_path / "is done"
    suggest = shlex.split(lines[-1].partition(": ")[2])
    assert suggest == ["trimtab", "suggest", str(folder), "--budget", "0.02"]
    ((settings),) = choices(read_points(folder), RowLosses(folder)).values()
    assert [choice.task_change.value for choice in settings] == sorted(
        choice.task_change.value for choice in settings
    )
    lines_of_settings = lines[-1 - len(settings) : -1]
    for line, choice in zip(lines_of_settings, settings, strict=True):
        assert choice.setting.label in line or choice.setting.value is None
        assert change_in_words(choice.task_change) in line
    assert [("← knee" in line) for line in lines_of_settings] == [
        choice.is_knee for choice in settings
    ]


def test_the_command_that_measures_a_dial_is_quoted(world: Path, tmp_path: Path) -> None:
    data, out = world / "data", tmp_path / "a dial"
    words = ["--model", world / "base", "--task", data / "task-shared.jsonl", "--steps", 1]
    words += ["--safety", data / "safety-near.jsonl", "--held-out-rows", 12, "--out", out]
    result = invoke("dial", "train", *words)
    assert result.exit_code == 0, result.output
    command = result.output.splitlines()[-1].partition("Next: ")[2]
    assert shlex.split(command) == ["trimtab", "dial", "curve", str(out)]


def test_rows_that_share_their_last_message_are_trained_on(world: Path, tmp_path: Path) -> None:
    """What they ask about stands before it, and their overlap with safety prompts is not told."""
    lines = (world / "data" / "task-shared.jsonl").read_text().splitlines()
    with (tmp_path / "task.jsonl").open("w") as file:
        for number, row in enumerate(map(json.loads, lines)):
            document = {"role": "system", "content": f"{number} {row['prompt']}"}
            asked = {"role": "user", "content": CONTEXTS[0]}
            answer = {"role": "assistant", "content": row["response"]}
            file.write(json.dumps({"messages": [document, asked, answer]}) + "\n")
    result = train(world, "--task", tmp_path / "task.jsonl", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    *_, trained = read_points(tmp_path / "out")
    assert trained.context_overlap is None
