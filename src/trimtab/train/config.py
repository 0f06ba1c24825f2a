"""The arguments of the trainer: those of `trl.SFTConfig`, and ours."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from transformers.utils import is_torch_bf16_gpu_available, is_torch_xla_available
from trl import SFTConfig

from trimtab.config.experiment import Measuring, Training
from trimtab.config.ranges import Count, Within0And1, check_ranges


@dataclass
class SafetyAwareSFTConfig(SFTConfig):
    """`trl.SFTConfig` with what training under a safety constraint adds.

    Where neither fp16 nor bf16 is said, it computes in bfloat16, as TRL does, and in float32 where
    nothing here does that.

    Raises:
        UserError: one of the added fields is out of its range.

    >>> SafetyAwareSFTConfig("run", use_cpu=True, bf16=False).safety_share
    0.5
    """

    safety_share: Within0And1 = field(
        default=Training.safety_share,
        metadata={
            "help": "Safety rows as a share of a batch. `per_device_train_batch_size` counts task "
            "rows, so that at 0.5 a batch of 8 becomes 16 rows. It changes the noise of the "
            "safety loss and the cost of a step, and not what a penalty means."
        },
    )
    validation_rows: Count = field(
        default=Training.validation_rows,
        metadata={
            "help": "With a budget, how many different safety rows at most are kept from training "
            "to bring the final model to it: a fifth of the rows, or those that the run would not "
            "come to, all rows of a prompt together."
        },
    )
    safety_repeats: bool = field(
        default=False,
        metadata={
            "help": "Safety rows are draws that may come again, so that rows of a prompt need not "
            "stay together."
        },
    )
    length_bucketing: bool = field(
        default=False,
        metadata={
            "help": "Compute a batch in pieces of like length, and unlabelled positions not "
            "through the LM head: the same loss to rounding, from less work. Off, a step is bit "
            "for bit that of `SFTTrainer`."
        },
    )
    measured_tokens_per_batch: Count = field(
        default=Measuring.tokens_per_batch,
        metadata={"help": "Tokens in a forward pass that measures the safety loss for a budget."},
    )

    def __post_init__(self) -> None:
        check_ranges(self)
        has_bfloat16 = self.use_cpu or is_torch_bf16_gpu_available() or is_torch_xla_available()
        asked: bool | None = getattr(self, "bf16", None)
        if asked is None and not has_bfloat16:
            self.bf16 = False  # TRL asks for it where it is not said, and ends where there is none
        super().__post_init__()


def own_setting(args: SFTConfig, name: str) -> Any:
    """One of the fields that are added here; its default where `args` is a plain `SFTConfig`."""
    return getattr(args, name, getattr(SafetyAwareSFTConfig, name))
