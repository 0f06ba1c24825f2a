from pathlib import Path

import pytest

from tests.train import tiny
from trimtab import AlignmentLossConstraint, SafetyAwareSFTConfig
from trimtab.config.experiment import Measuring, Training
from trimtab.train.safety_stream import safety_rows_per_batch
from trimtab.train.settings import rows_by_role, sft_config


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_more_task_rows_leave_the_number_of_safety_rows(share: float, tmp_path: Path) -> None:
    training = Training(steps=1, batch_size=32, safety_share=share, equal_rows=True)
    args = tiny.config(tmp_path, per_device_train_batch_size=32)
    safety = safety_rows_per_batch(32, share)
    rows_by_role(args, training, None)
    assert args.per_device_train_batch_size == 32 + safety
    assert safety_rows_per_batch(args.per_device_train_batch_size, args.safety_share) == safety


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("equal", [False, True])
def test_a_batch_that_holds_both_roles_is_as_it_was_asked_for(
    share: float, equal: bool, tmp_path: Path
) -> None:
    training = Training(steps=1, batch_size=32, safety_share=share, equal_rows=equal)
    args = tiny.config(tmp_path, per_device_train_batch_size=32)
    rows_by_role(args, training, AlignmentLossConstraint(1.0))
    assert args.per_device_train_batch_size == 32
    assert safety_rows_per_batch(32, args.safety_share) == safety_rows_per_batch(32, share)


def test_a_batch_without_padding_is_left_whole(tmp_path: Path) -> None:
    def args(training: Training) -> SafetyAwareSFTConfig:
        return sft_config(training, Measuring(), tmp_path, 0)

    assert args(Training()).length_bucketing
    assert not args(Training(sft={"padding_free": True})).length_bucketing
    packed = args(Training(packing=64))
    assert (packed.packing, packed.max_length, packed.length_bucketing) == (True, 64, False)
