"""Facts about model cards: valid metadata, the points' own numbers, nothing of this machine."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard, ModelCardData

from trimtab.analysis.changes import RateChange
from trimtab.analysis.labels import change_in_words
from trimtab.config.experiment import Block, Dial, Experiment, Training
from trimtab.config.grid import only_model, plan_of
from trimtab.config.methods import ALIGNED, CASE_1, CASE_2, PLAIN
from trimtab.config.run_spec import RunSpec
from trimtab.config.yaml_io import differences, parse_experiment, read_experiment
from trimtab.evaluate.rates import REFUSALS
from trimtab.models import load_model, name_base_portably
from trimtab.report.model_card import Origin, trained_card, was_trained_on
from trimtab.results.checksums import changed_files
from trimtab.results.data_summary import DataSummary
from trimtab.results.judgements import Judgement, write_judgements
from trimtab.results.store import read_points
from trimtab.runner.dial import set_dial, train_dial
from trimtab.runner.post_hoc import repair_saved
from trimtab.runner.sweep import SilentWatcher, sweep
from trimtab.stats import Estimate


@pytest.fixture(scope="module")
def experiment(world: Path) -> Experiment:
    training = Training(steps=2, batch_size=4, lora_rank=2)
    grid = (Block("alignment-loss", (1.0,)),)
    world_experiment = replace(
        read_experiment(world / "experiment.yaml"), train=training, grid=grid
    )
    # Draws, not a distribution whose losses are exact: so that intervals are told too.
    drawn = replace(world_experiment.safety["near"], held_out=0.3, lowest_loss=None)
    task = replace(world_experiment.task["shared"], held_out=0.3, lowest_loss=None)
    return replace(world_experiment, safety={"near": drawn}, task={"shared": task}, original=None)


@pytest.fixture(scope="module")
def swept_folder(experiment: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cards")
    sweep(experiment, folder, SilentWatcher())
    return folder


def model_of(folder: Path) -> Path:
    (model,) = (folder / "models").iterdir()
    return model


def metadata_of(card: Path) -> dict[str, Any]:
    return dict(yaml.safe_load(card.read_text(encoding="utf-8").split("---")[1]))


def test_the_metadata_is_what_the_hub_reads(swept_folder: Path) -> None:
    card = model_of(swept_folder) / "README.md"
    read = ModelCard.load(card).data
    assert read.to_dict() == metadata_of(card)
    again = ModelCardData(**read.to_dict())  # names that it does not know would be kept as they are
    assert again.to_yaml() == read.to_yaml()
    assert set(read.to_dict()) == {"library_name", "pipeline_tag", "tags"}
    assert (read.library_name, read.pipeline_tag) == ("peft", "text-generation")


def test_the_numbers_are_those_of_the_points(swept_folder: Path) -> None:
    text = (model_of(swept_folder) / "README.md").read_text(encoding="utf-8")
    start, point = read_points(swept_folder)
    assert start.method is ALIGNED
    for before, after, gap in (
        (start.proxy_loss, point.proxy_loss, point.proxy_gap),
        (start.capability_loss, point.capability_loss, point.capability_gap),
    ):
        assert before is not None
        assert after is not None
        assert gap is not None
        assert f"| {before.value:.4f} [" in text
        assert f"| {after.value:.4f} [" in text
        assert f"| {change_in_words(gap)} |" in text
    assert f"{point.train_tokens:,} tokens" in text


def test_the_data_are_told_with_their_rows_and_checksums(swept_folder: Path, world: Path) -> None:
    text = (model_of(swept_folder) / "README.md").read_text(encoding="utf-8")
    for data_set in json.loads((swept_folder / "data.json").read_text()):
        path = world / data_set["path"]
        assert data_set["files"] == {
            data_set["path"]: hashlib.sha256(path.read_bytes()).hexdigest()
        }
        assert data_set["files"][data_set["path"]] in text
        assert f"| {data_set['train_rows']:,} | {data_set['held_out_rows']:,} |" in text


def test_a_licence_that_the_experiment_names_stands_in_the_card(
    experiment: Experiment, swept_folder: Path, tmp_path: Path
) -> None:
    """And makes no other experiment of it."""
    folder = Path(shutil.copytree(swept_folder, tmp_path / "made"))
    assert "No licence is recorded" in (model_of(folder) / "README.md").read_text(encoding="utf-8")
    (name,) = experiment.task
    licensed = {name: replace(experiment.task[name], licence="CC BY 4.0")}
    recorded = (folder / "experiment.yaml").read_text(encoding="utf-8")
    assert differences(recorded, replace(experiment, task=licensed)) == []
    shutil.rmtree(folder)
    sweep(replace(experiment, task=licensed), folder, SilentWatcher())
    text = (model_of(folder) / "README.md").read_text(encoding="utf-8")
    assert re.search(r"Licences: `[^`]*task-shared.jsonl`: CC BY 4.0\.", text), text
    assert "No licence of the others is recorded" in text


def test_the_experiment_in_the_card_is_the_one_that_made_it(
    swept_folder: Path, experiment: Experiment
) -> None:
    text = (model_of(swept_folder) / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    parsed = parse_experiment(block, "card")
    assert parsed == replace(experiment, model="base", data_root=".")
    (model,) = re.findall(r"trimtab sweep experiment.yaml --only (\S+) --out again", text)
    (run,) = plan_of(only_model(parsed, model)).runs
    assert run.models == (model_of(swept_folder).name,)


def test_two_files_of_one_name_are_told_apart_and_values_are_left_as_they_are() -> None:
    settings = {
        "model": "/models/start",
        "task": {"t": {"path": "/data/task/train.jsonl", "where": {"topic": ["/r/legal"]}}},
        "safety": {"s": {"path": "/data/safety/train.jsonl", "held_out": "more.jsonl"}},
        "train": {"sft": {"deepspeed": "/home/me/zero.json"}},
        "answers": {"judges": ["qwen3guard=/home/me/guard", "phrases"]},
        "data_root": "/home/me",
    }
    data = [
        DataSummary(role, name, path, 1, 1, [], {})
        for role, name, path in (
            ("task", "t", "/data/task/train.jsonl"),
            ("safety", "s", "/data/safety/train.jsonl"),
        )
    ]
    spec = RunSpec(CASE_1, 1.0, "s", "t", 0)
    text = trained_card(spec, [], (), Origin(settings, data), Path("nowhere"))
    (block,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert yaml.safe_load(block) == {
        "model": "start",
        "task": {"t": {"path": "train.jsonl", "where": {"topic": ["/r/legal"]}}},
        "safety": {"s": {"path": "train-2.jsonl", "held_out": "more.jsonl"}},
        "train": {"sft": {"deepspeed": "zero.json"}},
        "answers": {"judges": ["qwen3guard=guard", "phrases"]},
    }
    assert "| task | `t` | `train.jsonl` |" in text
    assert "| safety | `s` | `train-2.jsonl` |" in text
    assert "/home/me" not in text


@pytest.mark.parametrize(
    ("spec", "align", "trained_on"),
    [
        (RunSpec(CASE_1, 1.0, "s", "t", 0), None, {"s", "t"}),
        (RunSpec(CASE_1, 0.0, "s", "t", 0), None, {"t"}),
        (RunSpec(PLAIN, None, None, "t", 0), None, {"t"}),
        (RunSpec(CASE_2, 0.1, "s", "t", 0), None, {"t"}),
        (RunSpec(CASE_1, 1.0, "s", "t", 0), {"steps": 1}, {"s", "t", "original"}),
    ],
)
def test_the_card_tells_data_that_were_trained_on_from_those_measured_on(
    spec: RunSpec, align: dict[str, int] | None, trained_on: set[str]
) -> None:
    roles = {"original": "original", "s": "safety", "other": "safety", "t": "task", "u": "task"}
    data = [
        DataSummary(role, name, f"{name}.jsonl", 8, 2, [], {f"{name}.jsonl": f"digest-{name}"})
        for name, role in roles.items()
    ]
    origin = Origin({"model": "m", "align": align}, data)
    card = trained_card(spec, [], (), origin, Path("nowhere"))
    assert {name for name in roles if was_trained_on(card, f"digest-{name}")} == trained_on
    for name, role in roles.items():
        rows = "8" if name in trained_on else "none"
        assert f"| {role} | `{name}` | `{name}.jsonl` | {rows} | 2 | `digest-{name}` |" in card
    assert not was_trained_on(card, "another")


def test_the_card_of_a_plain_model_names_no_safety_data_it_was_trained_on() -> None:
    origin = Origin({"model": "org/m"}, [])
    plain, held = (
        trained_card(RunSpec(CASE_1, penalty, "s", "t", 0), [], (), origin, Path("nowhere"))
        for penalty in (0.0, 1.0)
    )
    assert "with safety data" not in plain
    assert "fine-tuned on `t` under no constraint" in plain
    assert "fine-tuned on `t` with safety data `s` under Case I" in held


@pytest.mark.parametrize("how", ["sweep", "dial", "repair"])
def test_a_card_says_nothing_of_this_machine_and_what_was_not_measured(
    how: str, experiment: Experiment, swept_folder: Path, world: Path, tmp_path: Path
) -> None:
    out = tmp_path / "model"
    if how == "sweep":
        out = model_of(swept_folder)
    elif how == "dial":
        dial_experiment = replace(experiment, grid=(), dial=Dial())
        train_dial(dial_experiment, tmp_path / "dial", SilentWatcher(), restart=False)
        set_dial(tmp_path / "dial", out, SilentWatcher(), alpha=0.5)
    else:
        repair_saved("wise-ft", 0.5, model_of(swept_folder), str(world / "base"), None, out)
    text = (out / "README.md").read_text(encoding="utf-8")
    for place in (world, swept_folder, tmp_path):
        assert str(place) not in text
    for needed in ("## What was not measured", "## Versions", "2503.20807", "had not been judged"):
        assert needed in text
    assert metadata_of(out / "README.md")["library_name"] == (
        "peft" if (out / "adapter_config.json").exists() else "transformers"
    )
    assert changed_files(out) == []


def test_a_card_that_an_interruption_left_out_is_written_then(
    experiment: Experiment, swept_folder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(swept_folder, tmp_path / "made"))
    card = model_of(folder) / "README.md"
    whole = card.read_text(encoding="utf-8")
    card.write_text("# PEFT's\n", encoding="utf-8")
    sweep(experiment, folder, SilentWatcher())
    assert card.read_text(encoding="utf-8") == whole


def test_a_base_of_this_machines_cache_is_named_as_on_the_hub(
    swept_folder: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path / "cache"))
    adapter = Path(shutil.copytree(model_of(swept_folder), tmp_path / "adapter"))
    config = json.loads((adapter / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(tmp_path / "cache" / "smollm2")
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    name_base_portably(adapter)
    named = json.loads((adapter / "adapter_config.json").read_text())
    assert named["base_model_name_or_path"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    # trimtab itself goes on with the weights that were trained on.
    loaded: list[str] = []
    monkeypatch.setattr(
        "trimtab.models.loading.source_of", _recording_source(loaded, world / "base")
    )
    load_model(str(adapter))
    assert "smollm2" in loaded


def _recording_source(loaded: list[str], base: Path) -> Callable[[str], str]:
    def source(name: str) -> str:
        loaded.append(name)
        return str(base) if name == "smollm2" else name

    return source


def test_a_judge_is_told_with_its_revision_and_licence_and_prompts_with_theirs(
    tmp_path: Path,
) -> None:
    judgement = Judgement(
        "qwen3guard", "Qwen/Qwen3Guard-Gen-0.6B", "abc123", "", "1", "refused", False, True, 0.1,
        False, "",
    )  # fmt: skip
    write_judgements(tmp_path / "plain.jsonl", [judgement])
    rate = Estimate(0.9, 0.8, 0.95, "share of harmful prompts", "estimate")
    settings = {
        "model": "m",
        "answers": {"harmful": [{"path": "jailbreakbench"}], "judges": ["qwen3guard"]},
    }
    data = DataSummary("safety", "s", "LibrAI/do-not-answer", 8, 2, ())
    card = trained_card(
        RunSpec(PLAIN, None, None, "t", 0),
        (),
        (),
        Origin(settings, (data,)),
        tmp_path,
        rates=(RateChange(REFUSALS, 100, None, rate, None),),
        judgements=tmp_path / "plain.jsonl",
    )
    assert "| `qwen3guard` | `Qwen/Qwen3Guard-Gen-0.6B` | `abc123` | Apache-2.0 |" in card
    assert "`JailbreakBench/JBB-Behaviors` (MIT)" in card
    assert "`LibrAI/do-not-answer`: CC BY-NC-SA 4.0" in card
