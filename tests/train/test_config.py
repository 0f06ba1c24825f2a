"""The trainer's arguments: TRL's, and ours with help and ranges as TRL's have."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from transformers import HfArgumentParser
from trl import SFTConfig

from trimtab.errors import UserError
from trimtab.train.config import SafetyAwareSFTConfig

OURS = {field.name for field in fields(SafetyAwareSFTConfig)} - {
    field.name for field in fields(SFTConfig)
}


def test_every_field_of_trl_is_there_with_its_default(tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"output_dir": str(tmp_path), "bf16": False}
    theirs, ours = SFTConfig(**arguments), SafetyAwareSFTConfig(**arguments)
    for field in fields(SFTConfig):
        if field.name != "logging_dir":
            assert str(getattr(ours, field.name)) == str(getattr(theirs, field.name)), field.name


def test_every_field_of_ours_is_described() -> None:
    assert {
        "safety_share",
        "validation_rows",
        "safety_repeats",
        "length_bucketing",
        "measured_tokens_per_batch",
    } == OURS
    described = {field.name: field.metadata.get("help") for field in fields(SafetyAwareSFTConfig)}
    assert all(described[name] for name in OURS)


def test_trls_parser_reads_it_from_a_command_line(tmp_path: Path) -> None:
    line = f"--output_dir {tmp_path} --bf16 false --safety_share 0.25 --length_bucketing"
    (args,) = HfArgumentParser(SafetyAwareSFTConfig).parse_args_into_dataclasses(line.split())
    assert args.safety_share == 0.25
    assert args.length_bucketing is True
    assert args.validation_rows == 256


@pytest.mark.parametrize("value", [0.0, 1.0, float("nan"), -0.5])
def test_a_share_must_lie_between_0_and_1(value: float, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="safety_share is"):
        SafetyAwareSFTConfig(str(tmp_path), bf16=False, safety_share=value)


@pytest.mark.parametrize("name", ["validation_rows", "measured_tokens_per_batch"])
def test_counts_must_be_at_least_one(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{name} is 0"):
        SafetyAwareSFTConfig(str(tmp_path), bf16=False, **{name: 0})


def test_it_survives_being_written_and_read(tmp_path: Path) -> None:
    args = SafetyAwareSFTConfig(str(tmp_path), bf16=False, validation_rows=7)
    assert args.to_dict()["validation_rows"] == 7
