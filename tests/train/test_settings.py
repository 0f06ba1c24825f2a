from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.train import tiny
from trimtab import AlignmentLossConstraint, SafetyAwareSFTConfig
from trimtab.config.experiment import Measuring, Training
from trimtab.errors import UserError
from trimtab.train.baselines.ewc import EWC
from trimtab.train.safety_stream import safety_rows_per_batch
from trimtab.train.settings import (
    divide_among,
    require_whole_loading,
    set_rows,
    sft_config,
)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_more_task_rows_leave_the_number_of_safety_rows(share: float, tmp_path: Path) -> None:
    training = Training(steps=1, batch_size=32, safety_share=share, equal_rows=True)
    args = tiny.config(tmp_path, per_device_train_batch_size=32)
    safety = safety_rows_per_batch(32, share)
    set_rows(args, training, None)
    assert args.per_device_train_batch_size == 32 + safety
    assert safety_rows_per_batch(args.per_device_train_batch_size, args.safety_share) == safety


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("equal", [False, True])
def test_a_batch_that_holds_both_roles_is_as_it_was_asked_for(
    share: float, equal: bool, tmp_path: Path
) -> None:
    training = Training(steps=1, batch_size=32, safety_share=share, equal_rows=equal)
    args = tiny.config(tmp_path, per_device_train_batch_size=32)
    set_rows(args, training, AlignmentLossConstraint(1.0))
    assert args.per_device_train_batch_size == 32
    assert safety_rows_per_batch(32, args.safety_share) == safety_rows_per_batch(32, share)


def test_a_batch_without_padding_is_left_whole(tmp_path: Path) -> None:
    def args(training: Training) -> SafetyAwareSFTConfig:
        return sft_config(training, Measuring(), tmp_path, 0)

    assert args(Training()).length_bucketing
    assert not args(Training(sft={"padding_free": True})).length_bucketing
    packed = args(Training(packing=64))
    assert (packed.packing, packed.max_length, packed.length_bucketing) == (True, 64, False)


@pytest.mark.parametrize(
    ("processes", "accumulation", "expected"), [(1, 3, (8, 3)), (2, 4, (8, 2)), (4, 2, (4, 1))]
)
def test_processes_take_batches_in_turn_and_divide_what_is_left(
    processes: int, accumulation: int, expected: tuple[int, int], tmp_path: Path
) -> None:
    training = Training(steps=1, batch_size=8, accumulation=accumulation)
    args = sft_config(training, Measuring(), tmp_path, 0)
    objective = AlignmentLossConstraint(1.0)
    set_rows(args, training, objective)
    divide_among(processes, args, training, objective)
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == expected
    assert safety_rows_per_batch(expected[0], args.safety_share) == expected[0]


def test_rows_that_processes_cannot_share_are_one_line(tmp_path: Path) -> None:
    training = Training(steps=1, batch_size=3)
    args = sft_config(training, Measuring(), tmp_path, 0)
    with pytest.raises(UserError, match="2 processes cannot share a step of 1 batches of 3 rows"):
        divide_among(2, args, training, None)


def test_safety_rows_that_no_step_reads_need_not_be_shared(tmp_path: Path) -> None:
    training = Training(steps=1, batch_size=8, safety_share=0.1)
    for objective, is_shared in ((EWC(1.0), True), (AlignmentLossConstraint(1.0), False)):
        args = sft_config(training, Measuring(), tmp_path, 0)
        set_rows(args, training, objective)
        with nullcontext() if is_shared else pytest.raises(UserError, match="1 of the safety data"):
            divide_among(2, args, training, objective)


@pytest.mark.parametrize(("sharded", "spared"), [("true", "false"), ("false", "true")])
def test_processes_that_all_load_the_model_may_train(
    sharded: str, spared: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", sharded)
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", spared)
    require_whole_loading()


def test_shards_of_which_only_the_first_process_has_weights_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "true")
    with pytest.raises(UserError, match="fsdp_cpu_ram_efficient_loading: true"):
        require_whole_loading()
