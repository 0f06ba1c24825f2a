"""Facts about which checkpoint an interrupted training goes on from."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import Trainer, TrainingArguments

from trimtab.train.checkpoints import is_whole, newest_whole_checkpoint

FILES = (
    "config.json",
    "model.safetensors",
    "optimizer.pt",
    "scheduler.pt",
    "rng_state.pth",
    "training_args.bin",
    "trainer_state.json",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the Trainer leaves after checkpoints at steps 1, 2 and 3."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("checkpoints")
    config = LlamaConfig(
        vocab_size=8,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
    )
    rows = [{"input_ids": torch.arange(4), "labels": torch.arange(4)}] * 4
    settings = TrainingArguments(
        str(folder), max_steps=3, save_steps=1, report_to="none", disable_tqdm=True, use_cpu=True
    )
    Trainer(LlamaForCausalLM(config), settings, train_dataset=rows).train()
    return folder


@pytest.fixture
def checkpoints(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "one byte": lambda path: path.write_bytes(path.read_bytes()[:1]),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "all but its end": lambda path: path.write_bytes(path.read_bytes()[:-4]),
    "NULs": lambda path: path.write_bytes(b"\0" * path.stat().st_size),
}


def test_the_newest_checkpoint_is_gone_on_from(checkpoints: Path) -> None:
    assert newest_whole_checkpoint(checkpoints) == checkpoints / "checkpoint-3"
    assert sorted(path.name for path in checkpoints.glob("*-*")) == [
        f"checkpoint-{step}" for step in (1, 2, 3)
    ]


def test_steps_are_numbers(checkpoints: Path) -> None:
    (checkpoints / "checkpoint-1").rename(checkpoints / "checkpoint-10")
    assert newest_whole_checkpoint(checkpoints) == checkpoints / "checkpoint-3"


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_a_checkpoint_with_a_damaged_file_is_passed_over_with_a_word(
    name: str, damage: str, checkpoints: Path, caplog: pytest.LogCaptureFixture
) -> None:
    DAMAGES[damage](checkpoints / "checkpoint-3" / name)
    assert newest_whole_checkpoint(checkpoints) == checkpoints / "checkpoint-2"
    (word,) = caplog.messages
    assert "checkpoint-3" in word
    # What is written in its place must not meet its files.
    assert not (checkpoints / "checkpoint-3").exists()


@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json"]
)
def test_a_checkpoint_without_a_file_is_not_whole(name: str, checkpoints: Path) -> None:
    (checkpoints / "checkpoint-3" / name).unlink()
    assert not is_whole(checkpoints / "checkpoint-3")


def test_without_a_whole_checkpoint_there_is_none(checkpoints: Path, tmp_path: Path) -> None:
    for step in (1, 2, 3):
        (checkpoints / f"checkpoint-{step}/optimizer.pt").unlink()
    assert newest_whole_checkpoint(checkpoints) is None
    assert newest_whole_checkpoint(tmp_path / "nowhere") is None


def test_a_folder_of_another_name_is_no_checkpoint(checkpoints: Path) -> None:
    (checkpoints / "checkpoint-4-mine").mkdir()
    assert newest_whole_checkpoint(checkpoints) == checkpoints / "checkpoint-3"
    assert (checkpoints / "checkpoint-4-mine").exists()
