from pathlib import Path

import pytest

from tests.train import tiny
from trimtab.config.experiment import Training
from trimtab.train.safety_stream import safety_rows_per_batch
from trimtab.train.settings import take_more_task_rows


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_more_task_rows_leave_the_number_of_safety_rows(share: float, tmp_path: Path) -> None:
    training = Training(steps=1, batch_size=32, safety_share=share, equal_rows=True)
    args = tiny.config(tmp_path, per_device_train_batch_size=32)
    safety = safety_rows_per_batch(32, share)
    more = take_more_task_rows(args, training)
    assert args.per_device_train_batch_size == 32 + safety
    assert safety_rows_per_batch(args.per_device_train_batch_size, more.safety_share) == safety
