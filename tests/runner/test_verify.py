"""Facts about verifying: what is as it was passes, and a changed byte or loss fails its line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from tests.cli.test_one_line import assert_one_line, invoke
from tests.train import tiny
from trimtab.config.experiment import Block, Dial, Training
from trimtab.config.yaml_io import read_experiment, to_yaml
from trimtab.data.splits import read_roles
from trimtab.models import load_model
from trimtab.results.files import read_arrays, write_arrays
from trimtab.results.per_row_losses import RowLosses
from trimtab.results.store import read_points
from trimtab.runner.saved_models import adapter_on
from trimtab.runner.sweep import SilentWatcher, sweep
from trimtab.runner.verify import Check, _Models, verify
from trimtab.runner.verify_numbers import recomputed


@pytest.fixture(scope="module")
def swept(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with its own data below it, one adapter and one held-out sample of each set."""
    folder = tmp_path_factory.mktemp("verified")
    shutil.copytree(world / "data", folder / "data")
    world_experiment = read_experiment(world / "experiment.yaml")
    drawn = {"held_out": 0.3, "lowest_loss": None}
    experiment = replace(
        world_experiment,
        original=None,
        safety={"near": replace(world_experiment.safety["near"], **drawn)},
        task={"shared": replace(world_experiment.task["shared"], **drawn)},
        train=Training(steps=2, batch_size=4, lora_rank=2, learning_rate=1e-2),
        grid=(Block("alignment-loss", (1.0,)),),
        data_root=str(folder),
    )
    sweep(experiment, folder / "out", SilentWatcher())
    return folder


def test_the_ends_of_a_dial_and_the_aligned_model_are_looked_at(
    world: Path, tmp_path: Path
) -> None:
    training = Training(steps=2, batch_size=4, lora_rank=2, learning_rate=1e-2)
    experiment = replace(
        read_experiment(world / "experiment.yaml"),
        align=replace(training, lora_rank=None),
        train=training,
        dial=Dial(),
        grid=(Block("dial", values=(0.5,)),),
        data_root=str(world),
    )
    sweep(experiment, tmp_path / "out", SilentWatcher())
    assert all(check.passed is not False for check in verify(tmp_path / "out"))
    (end,) = (tmp_path / "out/models").rglob("safe/adapter_model.safetensors")
    start = tmp_path / "out/aligned/model.safetensors"
    for file in (end, start):
        whole = file.read_bytes()
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        failed = [check for check in verify(tmp_path / "out") if check.passed is False]
        assert [check.what.startswith("model ") for check in failed] == [True]
        file.write_bytes(whole)


@pytest.fixture
def copied(swept: Path, tmp_path: Path) -> Path:
    """A copy that reads its own data."""
    folder = Path(shutil.copytree(swept, tmp_path / "copy"))
    record = folder / "out" / "experiment.yaml"
    moved = replace(read_experiment(record), data_root=str(folder))
    record.write_text(record.read_text().splitlines()[0] + "\n" + to_yaml(moved))
    return folder


def test_what_is_as_it_was_passes(copied: Path) -> None:
    result = invoke("verify", copied / "out")
    assert result.exit_code == 0, result.output
    *lines, total = result.output.splitlines()
    # Two files of data, two models' numbers, one's files, and both on two data sets.
    assert total == "9 ok, 0 FAILED, 0 not known."
    assert all(line.startswith("ok ") for line in lines)


def test_the_start_is_loaded_once_for_itself_and_every_adapter(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def counted(*args: Any) -> Any:
        loaded.append(args[0])
        return load_model(*args)

    loaded: list[str] = []
    monkeypatch.setattr("trimtab.runner.verify.load_model", counted)
    checks = list(verify(copied / "out"))
    assert sum(check.what.startswith("losses of") for check in checks) == 4
    assert len(loaded) == 1


@pytest.mark.parametrize("bias", ["none", "all"])
def test_an_adapter_leaves_no_mark_on_the_start(bias: str, copied: Path, tmp_path: Path) -> None:
    tiny.tiny_llama(tmp_path / "model")
    config = LlamaConfig.from_pretrained(tmp_path / "model", attention_bias=True)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    experiment = replace(
        read_experiment(copied / "out/experiment.yaml"), model=str(tmp_path / "model")
    )
    models = _Models(experiment, tmp_path)
    before = {name: weight.clone() for name, weight in models.start.named_parameters()}
    adapted: Any = get_peft_model(
        deepcopy(models.start), LoraConfig(bias=bias, task_type="CAUSAL_LM")
    )
    with torch.no_grad():
        for weight in adapted.parameters():
            if weight.requires_grad:
                weight.add_(1.0)
    adapted.save_pretrained(tmp_path / "models" / "adapter")
    loaded = models.loaded("adapter").state_dict()
    assert all(torch.equal(loaded[name], weight) for name, weight in adapted.state_dict().items())
    for name, weight in models.start.named_parameters():
        assert torch.equal(weight, before[name])


def test_an_adapter_whose_file_holds_embeddings_leaves_no_mark_on_the_start(tmp_path: Path) -> None:
    start, _ = tiny.tiny_llama(tmp_path / "model")
    lora = LoraConfig(target_modules=["embed_tokens", "q_proj"], task_type="CAUSAL_LM")
    adapted: Any = get_peft_model(deepcopy(start), lora)
    with torch.no_grad():
        adapted.get_input_embeddings().weight.add_(1.0)
    adapted.save_pretrained(tmp_path / "adapter", save_embedding_layers=True)
    before = [weight.clone() for weight in start.parameters()]
    model = adapter_on(start, str(tmp_path / "model"), tmp_path / "adapter")
    assert torch.equal(model.get_input_embeddings().weight, adapted.get_input_embeddings().weight)
    for weight, old in zip(start.parameters(), before, strict=True):
        assert torch.equal(weight, old)


def change_data(folder: Path) -> None:
    path = folder / "data" / "task-shared.jsonl"
    path.write_bytes(path.read_bytes() + b"\n")


def remove_data(folder: Path) -> None:
    (folder / "data" / "safety-near.jsonl").unlink()


def change_model(folder: Path) -> None:
    (weights,) = (folder / "out" / "models").glob("*/adapter_model.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))


def change_losses(folder: Path) -> None:
    (path,) = (path for path in (folder / "out/row-losses").iterdir() if path.stem != "aligned")
    rows = read_arrays(path)
    rows["task:shared"] = rows["task:shared"] + np.array([[0.1], [0.0]])
    write_arrays(path, rows)


@pytest.mark.parametrize(
    ("change", "failed"),
    [
        (change_data, ["data task shared"]),
        (remove_data, ["data safety near"]),
        (change_model, ["model "]),
        (change_losses, ["numbers of", "on task:shared"]),
    ],
)
def test_what_was_changed_fails_its_line(
    change: Callable[[Path], None], failed: list[str], copied: Path
) -> None:
    change(copied)
    result = invoke("verify", copied / "out")
    assert_one_line(result, status=1)
    lines = [line for line in result.output.splitlines() if line.startswith("FAILED")]
    assert len(lines) == len(failed)
    assert all(what in line for what, line in zip(failed, lines, strict=True))


def edit_points(folder: Path, model: str, **values: float) -> None:
    path = folder / "points.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        if (record["model"] == "aligned") == (model == "aligned"):
            record.update(values)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def number_checks(folder: Path) -> dict[str, Check]:
    root = folder.parent if (folder.parent / "data").exists() else folder
    return {
        check.what.removeprefix("numbers of "): check
        for check in verify(folder, root)
        if check.what.startswith("numbers of ")
    }


@pytest.mark.parametrize(
    ("field", "source"),
    [
        ("proxy_loss", "its rows give"),
        ("capability_loss", "its rows give"),
        ("proxy_gap", "its losses give"),
        ("capability_gap", "its losses give"),
    ],
)
def test_an_edited_number_of_a_point_is_told(field: str, source: str, copied: Path) -> None:
    edit_points(copied / "out", "trained", **{field: 1.25})
    start, trained = number_checks(copied / "out").values()
    assert start.passed is True
    assert trained.passed is False
    assert trained.finding.startswith(f"{field} is 1.25, and {source} ")


def test_an_edited_rate_is_told_by_the_prompts_that_it_counts(tmp_path: Path) -> None:
    published = Path(__file__).parents[2] / "docs/reproduction/smollm2-safety"
    folder = Path(shutil.copytree(published, tmp_path / "out"))
    before = number_checks(folder)
    assert len(before) == 16
    assert all(check.passed for check in before.values())
    edit_points(folder, "aligned", refusal_rate=0.123)
    failed = {name: check for name, check in number_checks(folder).items() if not check.passed}
    assert list(failed) == ["aligned"]
    assert failed["aligned"].finding.startswith("refusal_rate is 0.123, and its rows give 0.")


def test_numbers_whose_rows_were_not_kept_are_not_known(copied: Path) -> None:
    shutil.rmtree(copied / "out" / "row-losses")
    (check,) = number_checks(copied / "out").values()  # one line for all
    assert (check.passed, check.finding) == (None, "not compared: their rows were not kept")
    assert check.what.endswith(" models")


def test_points_of_the_first_version_and_exact_ones_are_not_called_wrong() -> None:
    folder = Path(__file__).parents[2] / "docs/demo"
    numbers = recomputed(read_points(folder), {}, RowLosses(folder))
    assert numbers
    assert all(of_model.fault is None for of_model in numbers.values())
    assert not any(of_model.compared for of_model in numbers.values())


def test_a_kept_model_that_is_gone_is_told(copied: Path) -> None:
    (model,) = (path.name for path in (copied / "out" / "models").iterdir())
    shutil.rmtree(copied / "out" / "models" / model)
    result = invoke("verify", copied / "out")
    assert result.exit_code == 0, result.output
    (line,) = (line for line in result.output.splitlines() if f"model {model}:" in line)
    assert "it was to be kept, and is not there" in line


def test_a_folder_of_before_has_nothing_to_compare_its_files_with(copied: Path) -> None:
    data = json.loads((copied / "out" / "data.json").read_text())
    for record in data:
        del record["files"]
    (copied / "out" / "data.json").write_text(json.dumps(data))
    for sums in (copied / "out" / "models").glob("*/SHA256SUMS"):
        sums.unlink()
    result = invoke("verify", copied / "out")
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[-1] == "6 ok, 0 FAILED, 3 not known."


def test_a_folder_without_points_is_one_line(tmp_path: Path) -> None:
    assert_one_line(invoke("verify", tmp_path))


def test_points_without_their_experiment_are_one_line(copied: Path) -> None:
    (copied / "out/experiment.yaml").unlink()
    result = invoke("verify", copied / "out")
    assert_one_line(result)
    assert "Give the folder that 'trimtab sweep'" in result.output


def test_data_that_lie_elsewhere_are_found_by_data_root(copied: Path, tmp_path: Path) -> None:
    (copied / "data").rename(tmp_path / "data")
    record = copied / "out" / "data.json"
    data = json.loads(record.read_text())
    for source in data:
        del source["files"]
    record.write_text(json.dumps(data))
    line = assert_one_line(invoke("verify", copied / "out"))
    assert "task-shared.jsonl" in line
    assert "safety-near.jsonl" in line
    assert "give it: --data-root" in line
    result = invoke("verify", copied / "out", "--data-root", tmp_path)
    assert result.exit_code == 0, result.output


def test_without_the_aligned_model_that_was_made_no_loss_is_measured_again() -> None:
    folder = Path(__file__).parents[2] / "docs/reproduction/smollm2"
    result = invoke("verify", folder, "--data-root", folder)
    assert result.exit_code == 0, result.output
    assert "the aligned model that all start from was not kept" in result.output


def test_answers_to_one_prompt_are_recorded_as_one_and_found_again(
    swept: Path, tmp_path: Path
) -> None:
    before = read_experiment(swept / "out/experiment.yaml")
    experiment = replace(
        before,
        safety={"near": replace(before.safety["near"], repeats=False)},
        task={"shared": replace(before.task["shared"], repeats=False)},
        data_root=str(swept),
    )
    sweep(experiment, tmp_path / "out", SilentWatcher())
    roles = read_roles(experiment)
    recorded = read_arrays(tmp_path / "out/row-losses/aligned.npz")
    for data, split in (
        ("safety:near", roles.safety["near"]),
        ("task:shared", roles.task["shared"]),
    ):
        assert 1 < split.draws_held_out < len(split.held_out)
        assert recorded[data].shape == (2, split.draws_held_out)
    checks = list(verify(tmp_path / "out", swept))
    assert all(check.passed for check in checks), checks
