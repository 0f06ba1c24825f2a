"""Facts about weights that FSDP2 shards: the same training as with whole weights."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DistributedType
from peft import get_peft_model

import trimtab
from tests import forked
from tests.train import sharded, tiny
from tests.train.tiny import assert_same
from trimtab.errors import UserError
from trimtab.models import load_model
from trimtab.train.reference import AlignedReference
from trimtab.train.requirements import require_shards_that_are_tensors

CLOSE = 5e-6
"""Relative, of float32 sums that are taken in another order, to 3e-6 as seen."""


@pytest.fixture(scope="module")
def on_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what two processes recorded of every training on sharded weights."""
    folder = tmp_path_factory.mktemp("sharded")
    tiny.tiny_llama(folder / "model")
    result = forked.run(folder, main=sharded.main)
    assert result.returncode == 0, result.stderr
    return folder


@pytest.mark.parametrize(("name", "kind"), sharded.PAIRS)
def test_a_training_on_shards_is_that_of_one_process(
    name: str, kind: str, on_shards: Path, tmp_path: Path
) -> None:
    on_two = torch.load(on_shards / f"{name}-{kind}.pt")
    whole = sharded.trained_whole(name, kind, tmp_path)
    assert_same(on_two["weights"], whole["weights"], by=CLOSE)
    assert on_two["distance"] == pytest.approx(whole["distance"], rel=CLOSE)
    path, expected = (logged(record, "distance") for record in (on_two, whole))
    assert path == pytest.approx(expected, rel=5 * CLOSE, abs=CLOSE)
    if name in ("parameter-penalty", "parameter-radius"):
        assert len(logged(on_two, "distance")) == 7


@pytest.mark.parametrize(("name", "kind", "saved"), sharded.RESUMED)
def test_a_training_on_shards_resumes_to_the_same_bits(
    name: str, kind: str, saved: str, on_shards: Path
) -> None:
    through, resumed = torch.load(on_shards / f"{name}-{kind}-{saved}.pt")
    assert_same(through["weights"], resumed["weights"], by=0.0)
    assert through["distance"] == resumed["distance"]
    assert logged(through, "distance")[3:] == logged(resumed, "distance")[3:]


def test_ends_on_shards_are_saved_whole(on_shards: Path) -> None:
    trained = torch.load(on_shards / "dial-full.pt")["weights"]
    saved = {
        f"{end}.{name}": weight
        for end in ("task", "safe")
        for name, weight in load_model(str(on_shards / "ends" / end))[0].named_parameters()
    }
    assert_same(saved, trained, by=0.0)


@pytest.mark.parametrize("name", sharded.NOT_ON_SHARDS)
def test_what_is_not_shown_to_train_shards_is_refused(name: str, messages: dict[str, str]) -> None:
    assert "needs the whole model on every process" in messages[name]


def test_a_flattened_weight_has_no_distance(messages: dict[str, str]) -> None:
    assert messages["FSDP 1"].startswith("FSDP 1 flattens weights")


def test_a_flattened_weight_has_no_copy_for_an_end_of_a_dial(messages: dict[str, str]) -> None:
    assert messages["dial on FSDP 1"].startswith("FSDP 1 flattens weights")


def test_a_buffer_of_deepspeed_has_no_distance() -> None:
    state = SimpleNamespace(distributed_type=DistributedType.DEEPSPEED)
    trainer: Any = SimpleNamespace(accelerator=state)
    with pytest.raises(UserError, match="DeepSpeed keeps weights in buffers of its own"):
        require_shards_that_are_tensors(trainer)


def test_length_bucketing_does_not_go_with_shards(messages: dict[str, str]) -> None:
    assert "a different number of times on every process" in messages["bucketed"]


def test_shards_beside_an_adapter_are_not_put_back(tmp_path: Path) -> None:
    model = get_peft_model(tiny.tiny_llama(tmp_path / "model")[0], tiny.lora_config())
    model.get_base_model().lm_head.requires_grad_(True)
    with pytest.raises(UserError, match="weights that are trained beside an adapter"):
        AlignedReference(model).require_none_beside_adapter()


@pytest.mark.parametrize(("name", "kind"), [("ddp", "MULTI_GPU"), ("fsdp2", "FSDP")])
def test_the_package_holds_configurations_that_accelerate_reads(name: str, kind: str) -> None:
    file = Path(trimtab.__path__[0]) / "recipes" / "accelerate" / f"{name}.yaml"
    launched = load_config_from_file(str(file))
    assert launched.distributed_type == kind
    if kind == "FSDP":
        assert launched.fsdp_config["fsdp_version"] == 2


@pytest.fixture
def messages(on_shards: Path) -> dict[str, str]:
    """What was refused, and how."""
    refused: dict[str, str] = json.loads((on_shards / "refused.json").read_text())
    return refused


def logged(record: dict[str, Any], key: str) -> list[float]:
    return [entry[key] for entry in record["logs"] if key in entry]
