"""Facts about which checkpoint an interrupted training goes on from."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.checkpoint import save
from transformers import Trainer, TrainingArguments

from trimtab.errors import UserError
from trimtab.train.checkpoints import is_whole, newest_whole_checkpoint, require_same_launch

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")

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


def as_one_file(checkpoint: Path) -> None:
    """Laid out as FSDP2 does with FULL_STATE_DICT."""
    (checkpoint / "optimizer.pt").rename(checkpoint / "optimizer.bin")
    torch.save(load_file(checkpoint / "model.safetensors"), checkpoint / "pytorch_model_fsdp.bin")


def as_shards(checkpoint: Path) -> None:
    """Laid out as FSDP2 does with SHARDED_STATE_DICT."""
    weights = load_file(checkpoint / "model.safetensors")
    state = torch.load(checkpoint / "optimizer.pt")
    for name, values in (("pytorch_model_fsdp_0", {"model": weights}), ("optimizer_0", state)):
        save(values, checkpoint_id=checkpoint / name, no_dist=True)
    for name in ("config.json", "generation_config.json", "model.safetensors", "optimizer.pt"):
        (checkpoint / name).unlink()


SHARDED: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "FULL_STATE_DICT": (as_one_file, ("pytorch_model_fsdp.bin", "optimizer.bin")),
    "SHARDED_STATE_DICT": (
        as_shards,
        tuple(
            f"{folder}/{name}"
            for folder in ("pytorch_model_fsdp_0", "optimizer_0")
            for name in (".metadata", "__0_0.distcp")
        ),
    ),
}
"""The layouts of FSDP2, and the files that each has for the weights and the optimizer's state."""


@pytest.mark.parametrize("layout", SHARDED)
def test_a_checkpoint_of_divided_weights_is_gone_on_from(
    layout: str, checkpoints: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lay_out, _ = SHARDED[layout]
    for step in (1, 2, 3):
        lay_out(checkpoints / f"checkpoint-{step}")
    assert newest_whole_checkpoint(checkpoints) == checkpoints / "checkpoint-3"
    assert not [record for record in caplog.records if record.name.startswith("trimtab")]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    ("layout", "name"), [(layout, name) for layout in SHARDED for name in SHARDED[layout][1]]
)
def test_a_damaged_checkpoint_of_divided_weights_is_passed_over(
    layout: str, name: str, damage: str, checkpoints: Path
) -> None:
    lay_out, _ = SHARDED[layout]
    for step in (2, 3):
        lay_out(checkpoints / f"checkpoint-{step}")
    DAMAGES[damage](checkpoints / "checkpoint-3" / name)
    assert newest_whole_checkpoint(checkpoints) == checkpoints / "checkpoint-2"
    assert not (checkpoints / "checkpoint-3").exists()


@pytest.mark.parametrize(
    ("layout", "name"), [(layout, name) for layout in SHARDED for name in SHARDED[layout][1]]
)
def test_a_checkpoint_of_divided_weights_without_a_file_is_not_whole(
    layout: str, name: str, checkpoints: Path
) -> None:
    lay_out, _ = SHARDED[layout]
    lay_out(checkpoints / "checkpoint-3")
    assert is_whole(checkpoints / "checkpoint-3")
    (checkpoints / "checkpoint-3" / name).unlink()
    assert not is_whole(checkpoints / "checkpoint-3")


def test_a_checkpoint_of_an_unknown_layout_is_moved_aside_with_a_word(
    checkpoints: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """DeepSpeed has a folder of each step in place of the optimizer's file."""
    for step in (2, 3):
        checkpoint = checkpoints / f"checkpoint-{step}"
        (checkpoint / f"global_step{step}").mkdir()
        (checkpoint / "optimizer.pt").rename(checkpoint / f"global_step{step}" / "states.pt")
    assert newest_whole_checkpoint(checkpoints) == checkpoints / "checkpoint-1"
    assert all("no layout that can be gone on from" in word for word in caplog.messages)
    assert len(caplog.messages) == 2
    assert (checkpoints / "unread-3-1/global_step3/states.pt").exists()
    assert (checkpoints / "unread-2-1/global_step2/states.pt").exists()


@pytest.mark.parametrize(
    ("layout", "launched", "is_read"),
    [
        (None, None, True),
        (None, "FULL_STATE_DICT", False),
        ("FULL_STATE_DICT", None, False),
        ("FULL_STATE_DICT", "FULL_STATE_DICT", True),
        ("FULL_STATE_DICT", "SHARDED_STATE_DICT", False),
        ("SHARDED_STATE_DICT", "SHARDED_STATE_DICT", True),
    ],
)
def test_a_checkpoint_of_another_launch_is_refused_in_one_line(
    layout: str | None,
    launched: str | None,
    is_read: bool,
    checkpoints: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checkpoint = checkpoints / "checkpoint-3"
    if layout:
        SHARDED[layout][0](checkpoint)
    if launched:
        monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
        monkeypatch.setenv("FSDP_STATE_DICT_TYPE", launched)
    if is_read:
        require_same_launch(checkpoint)
        return
    with pytest.raises(UserError, match=rf"{checkpoint} was written .*Launch as before, or"):
        require_same_launch(checkpoint)


def test_without_a_whole_checkpoint_there_is_none(checkpoints: Path, tmp_path: Path) -> None:
    for step in (1, 2, 3):
        (checkpoints / f"checkpoint-{step}/optimizer.pt").unlink()
    assert newest_whole_checkpoint(checkpoints) is None
    assert newest_whole_checkpoint(tmp_path / "nowhere") is None


def test_a_folder_of_another_name_is_no_checkpoint(checkpoints: Path) -> None:
    (checkpoints / "checkpoint-4-mine").mkdir()
    assert newest_whole_checkpoint(checkpoints) == checkpoints / "checkpoint-3"
    assert (checkpoints / "checkpoint-4-mine").exists()
