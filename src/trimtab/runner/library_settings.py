"""Whether TRL and PEFT take what an experiment passes on to them, before anything is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import torch
from peft import get_peft_model
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import TrainableTokensWrapper
from torch.nn import Parameter
from torch.optim import SGD
from transformers import Trainer, get_scheduler
from transformers.integrations import get_reporting_integration_callbacks
from trl import SFTConfig

from trimtab.config.experiment import Experiment, Measuring, Training
from trimtab.errors import UserError, reason_of
from trimtab.models import model_shape
from trimtab.train.settings import lora_config, require_whole_loading, sft_config


def check_library_settings(experiment: Experiment) -> None:
    """Let TRL, PEFT and the model's own modules look at `sft` and adapters of every training.

    Raises:
        UserError: a name, a type, a value or a module is not theirs; one line with its full path.
            Or a launcher's configuration is such that not every process has the model.
    """
    require_whole_loading()
    for section, training in (("align", experiment.align), ("train", experiment.train)):
        if training is not None and training.sft:
            _check(training, f"{section}.", "sft", _configure)
        if training is not None and (training.lora or training.lora_rank is not None):
            adapt = partial(_adapt, experiment.model, experiment.load.revision)
            _check(training, f"{section}.", "lora", adapt)


def _check(
    training: Training, section: str, kind: str, attempt: Callable[[Training], None]
) -> None:
    try:
        attempt(training)
    except UserError as error:
        is_models = str(error).startswith("model ")
        if is_models and not getattr(training, kind):
            return  # what is left to make may start from another, which whoever loads it tells
        raise UserError(f"{'' if is_models else section}{error}") from None
    except Exception as error:  # each setting of a library fails in its own way
        settings = getattr(training, kind)
        if not settings:
            raise UserError(
                f"{section}lora_rank: {reason_of(error)}. Name the layers to adapt by lora: "
                "target_modules (--lora 'target_modules=[…]'), or train all weights."
            ) from None
        guilty = [name for name in settings if _passes(training, kind, name, attempt)]
        place = f"{section}{kind}" + (f".{guilty[0]}" if len(guilty) == 1 else "")
        raise UserError(f"{place}: {reason_of(error)}. Mend or remove it.") from None


def _passes(
    training: Training, kind: str, without: str, attempt: Callable[[Training], None]
) -> bool:
    settings = getattr(training, kind)
    changes: dict[str, Any] = {kind: {name: settings[name] for name in settings if name != without}}
    try:
        attempt(replace(training, **changes))
    except Exception:
        return False
    return True


def _configure(training: Training) -> None:
    args = sft_config(training, Measuring(), Path(gettempdir()), seed=0)
    for callback in get_reporting_integration_callbacks(args.report_to):
        callback()  # whose package may not be installed
    _optimize(args)


def _optimize(args: SFTConfig) -> None:
    """Make the schedule, and look for the optimizer, whose package may not be installed."""
    Trainer.get_optimizer_cls_and_kwargs(args)
    steps = max(1, args.max_steps)
    get_scheduler(
        args.lr_scheduler_type,
        SGD([Parameter(torch.zeros(1))]),
        args.get_warmup_steps(steps),
        steps,
        args.lr_scheduler_kwargs,
    )


def _adapt(model: str, revision: str | None, training: Training) -> None:
    adapter = lora_config(training)
    assert adapter is not None  # as `lora` is refused without a rank
    adapted = get_peft_model(model_shape(model, revision), adapter)
    head = adapted.get_base_model().get_output_embeddings()
    if isinstance(head, BaseTunerLayer | TrainableTokensWrapper):
        raise UserError(
            "lora: the adapter reaches the model's head, which TRL takes the loss from and allows "
            "none at. Leave lm_head out of target_modules, and trainable_token_indices and "
            "ensure_weight_tying out, or give modules_to_save=lm_head."
        )
    for name, layer in adapted.named_modules():
        base: Any = layer.get_base_layer() if isinstance(layer, LoraLayer) else None
        if adapter.lora_bias and base is not None and base.bias is None:
            raise UserError(
                f"lora: lora_bias adds to the bias of {name}, which has none, so that the adapter "
                "could not be merged. Leave lora_bias out."
            )
