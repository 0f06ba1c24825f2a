"""What an experiment passes on to TRL and PEFT, checked by their own dataclasses."""

from __future__ import annotations

import math
import re
from dataclasses import fields
from difflib import get_close_matches
from typing import Any, get_args, get_type_hints

from peft import LoraConfig
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError
from trl import SFTConfig

from trimtab.config.experiment import Training
from trimtab.errors import UserError
from trimtab.measure.adapters import B_IS_ZERO_AT_FIRST

_OURS = {
    "max_steps": "steps",
    "per_device_train_batch_size": "batch_size",
    "gradient_accumulation_steps": "accumulation",
    "learning_rate": "learning_rate",
    "warmup_steps": "warmup",
    "max_grad_norm": "max_grad_norm",
    "bf16": "precision",
    "gradient_checkpointing": "gradient_checkpointing",
    "activation_checkpointing": "gradient_checkpointing",
    "save_strategy": "checkpoint_every",
    "save_steps": "checkpoint_every",
    "packing": "packing",
}
"""TRL's name of what is a setting of `Training` itself."""
_EVERY_LAYER = "all-linear"
"""PEFT's word, which is no name of a module."""
_OURS_OF_LORA = {"r": "lora_rank", "lora_alpha": "lora_alpha"}
"""The same of PEFT's."""

_REASONS = {
    "trimtab places and resumes checkpoints itself": (
        "output_dir save_total_limit save_only_model save_on_each_node enable_jit_checkpoint "
        "resume_from_checkpoint ignore_data_skip restore_callback_states_from_checkpoint "
        "load_best_model_at_end metric_for_best_model greater_is_better"
    ),
    "it follows from the experiment's seeds": "seed data_seed",
    "prompts and responses are cut to the experiment's lengths": "max_length truncation_mode",
    "the rows reach TRL as token ids already": (
        "dataset_text_field dataset_kwargs dataset_num_proc shuffle_dataset eos_token pad_token "
        "chat_template_path remove_unused_columns label_names length_column_name"
    ),
    "the model is loaded by trimtab, and no code that comes with one is run": (
        "model_init_kwargs trust_remote_code"
    ),
    "the loss is the mean over completion tokens": (
        "loss_type label_smoothing_factor completion_only_loss assistant_only_loss "
        "average_tokens_across_devices"
    ),
    "a pack holds whole rows, which do not see each other": "packing_strategy eval_packing",
    "the aligned model that a run is compared with would read its noise too": "neftune_noise_alpha",
    "which rows a process reads in a step is fixed by the seed": "accelerator_config",
    "trained weights stay in float32": "fp16 bf16_full_eval fp16_full_eval",
    "a batch has the same rows from the first step to the last": "auto_find_batch_size",
    "a result tells how many tokens were trained on": "include_num_input_tokens_seen",
    "trimtab measures on held-out rows itself, after training": (
        "do_train do_eval do_predict eval_strategy eval_steps eval_delay eval_on_start "
        "eval_do_concat_batches eval_use_gather_object eval_accumulation_steps batch_eval_metrics "
        "per_device_eval_batch_size prediction_loss_only include_for_metrics"
    ),
    "trimtab uploads a finished model with its card: --push-to-hub": (
        "push_to_hub hub_token hub_private_repo hub_model_id hub_strategy hub_always_push "
        "hub_revision"
    ),
}
_LORA_REASONS = {
    "the adapter is a LoRA of a causal language model, which trimtab loads": (
        "task_type peft_type auto_mapping peft_version base_model_name_or_path revision "
        "inference_mode runtime_config"
    ),
    "it makes another model than the aligned one": "layer_replication",
    "an adapter that acts from some token on cannot be merged": "alora_invocation_tokens",
}


def sft_settings(training: Training) -> dict[str, Any]:
    """The fields of `SFTConfig` that a training sets by TRL's names, in TRL's types.

    Raises:
        UserError: a name is unknown, or of what trimtab sets itself; or a value is of another type.
    """
    if "lr_scheduler_type" in training.sft and training.schedule != Training.schedule:
        raise UserError("sft.lr_scheduler_type and schedule are one setting. Give one of them.")
    refused = _refused(_REASONS) | {
        theirs: f"is the setting {_setting_text(ours)}. Give that instead"
        for theirs, ours in _OURS.items()
    }
    return _checked(training.sft, SFTConfig, "sft", refused)


def lora_settings(training: Training) -> dict[str, Any]:
    """The fields of `LoraConfig` that a training sets by PEFT's names.

    Raises UserError as above, and where no rank of the adapter is given.

    A new adapter has to leave the model as it is, or its start would not be the aligned model.
    """
    settings = _checked(training.lora, LoraConfig, "lora", _refused(_LORA_REASONS))
    if training.lora and training.lora_rank is None:
        raise UserError("lora is given, and no rank of the adapter. Give lora_rank (--lora-rank).")
    start = settings.get("init_lora_weights", True)
    if start not in B_IS_ZERO_AT_FIRST or start is False:
        raise UserError(
            f"lora.init_lora_weights {start!r} does not start at the aligned model. Leave it out, "
            "or give gaussian."
        )
    return settings


def _refused(reasons: dict[str, str]) -> dict[str, str]:
    return {
        name: f"cannot be set: {reason}. Leave it out"
        for reason, names in reasons.items()
        for name in names.split()
    }


def _checked(
    settings: dict[str, Any], kind: type, section: str, refused: dict[str, str]
) -> dict[str, Any]:
    hints = get_type_hints(kind)
    names = [field.name for field in fields(kind) if field.init]
    checked: dict[str, Any] = {}
    for key, value in settings.items():
        name = str(key).replace("-", "_")
        if name in refused:
            raise UserError(f"{section}.{name} {refused[name]}.")
        if name not in names:
            library = kind.__module__.partition(".")[0]
            raise UserError(
                f"{section}.{key} is no field of {library}.{kind.__name__}. "
                f"{_hint(name, names, section, refused)}"
            )
        checked[name] = _of_type(value, hints[name], f"{section}.{name}")
    return checked


def _hint(name: str, names: list[str], section: str, refused: dict[str, str]) -> str:
    """The nearest field that can be set, by trimtab's own name where it has one."""
    ours = _OURS if section == "sft" else _OURS_OF_LORA
    settable = [field for field in names if field in ours or field not in refused]
    nearest = get_close_matches(name, settable, n=1)
    if not nearest:
        return "Remove it."
    if nearest[0] in ours:
        prefix = "" if nearest[0] == ours[nearest[0]] else f"{nearest[0]}, "
        return f"Did you mean {prefix}the setting {_setting_text(ours[nearest[0]])}?"
    return f"Did you mean {section}.{nearest[0]}?"


def _setting_text(ours: str) -> str:
    return f"{ours} (--{ours.replace('_', '-')})"


def _of_type(value: Any, hint: Any, place: str) -> Any:
    if isinstance(value, str) and value != _EVERY_LAYER:  # a command line's q_proj,v_proj or 3,4
        parts = value.split(",") if re.fullmatch(r"[\w.-]+(,[\w.-]+)*", value) else []
        if parts and list[str] in _parts(hint):
            value = parts
        elif parts and list[int] in _parts(hint) and all(map(str.isdecimal, parts)):
            value = [int(part) for part in parts]
    if isinstance(value, int) and not isinstance(value, bool) and list[int] in _parts(hint):
        value = value if int in _parts(hint) else [value]
    if isinstance(value, bool) and bool not in _parts(hint):  # pydantic takes true for 1
        raise UserError(f"{place} is {value}. Give a value of type {_type_text(hint)}.")
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{place} is {value}. Give a finite number.")
    try:
        return TypeAdapter(hint, config=_config_for(hint)).validate_python(value)
    except ValidationError:
        raise UserError(f"{place} is {value!r}. Give a value of type {_type_text(hint)}.") from None
    except (PydanticSchemaGenerationError, PydanticUserError):
        raise UserError(f"{place} takes a Python object, which no text can say.") from None


def _config_for(hint: Any) -> ConfigDict | None:
    is_plain = not any(hasattr(part, "__dataclass_fields__") for part in _parts(hint))
    return ConfigDict(arbitrary_types_allowed=True) if is_plain else None


def _parts(hint: Any) -> tuple[Any, ...]:
    parts = get_args(hint)
    return (hint, *parts, *(type(part) for part in parts if isinstance(part, bool)))


def _type_text(hint: Any) -> str:
    type_text = hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)
    type_text = re.sub(r"typing\.|\b(?:\w+\.)+(?=[A-Z])", "", type_text)
    return type_text.replace("NoneType", "None")
