"""The two ends of a dial, and the model between them."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimtab.errors import UserError
from trimtab.measure.adapters import B_IS_ZERO_AT_FIRST
from trimtab.measure.shared_weights import sharing_all
from trimtab.models import load_model
from trimtab.train.objectives.base import held_bytes

TASK, SAFE = "task", "safe"
ADAPTER_FILE = "adapter_config.json"

_OPTIMIZER_STATES = 2
"""Adam's, for each weight."""


class Endpoints(Protocol):
    """θ_task = θ(1) and θ_safe = θ(0), and a model that stands at one setting α between them."""

    model: PreTrainedModel | PeftModel
    """The model at the setting it was last turned to."""

    def set_alpha(self, alpha: float) -> None:
        """Set the model to θ(α)."""

    def trained(self) -> nn.Module:
        """The module whose parameters the optimizer moves."""

    def share_gradient(self, alpha: float) -> None:
        """Hand the gradient at θ(α) on to the ends: α of it to θ_task, 1 − α to θ_safe."""

    def extra_bytes(self) -> int:
        """Memory beyond plain fine-tuning, with an optimizer that keeps two numbers per weight."""

    def to(self, device: torch.device) -> None:
        """Move the ends to the device of the model."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint of the model lacks of the endpoints."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Complete the model that was loaded from a checkpoint."""

    def save(self, folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
        """Write both endpoints, each a plain model or adapter, into a new folder."""

    def save_at(self, alpha: float, folder: Path, merged: bool) -> None:
        """Write θ(α) as one plain model or, where it is an adapter and not `merged`, as one."""


class DenseEndpoints:
    """θ(α) = θ_safe + α(θ_task − θ_safe), all weights; the ends are two copies of the model."""

    def __init__(
        self, model: PreTrainedModel, task: PreTrainedModel, safe: PreTrainedModel
    ) -> None:
        self.model = model
        self.task, self.safe = task, safe
        self.endpoints = nn.ModuleDict({TASK: task, SAFE: safe})
        self._places = [
            (weight, task.get_parameter(name), safe.get_parameter(name))
            for name, weight in model.named_parameters()
            if weight.requires_grad
        ]

    @torch.no_grad()
    def set_alpha(self, alpha: float) -> None:
        for weight, task, safe in self._places:
            torch.lerp(safe, task, alpha, out=weight)

    def trained(self) -> nn.Module:
        return self.endpoints

    def share_gradient(self, alpha: float) -> None:
        for weight, task, safe in self._places:
            if weight.grad is not None:
                task.grad, safe.grad = alpha * weight.grad, (1 - alpha) * weight.grad

    def extra_bytes(self) -> int:
        return (2 + _OPTIMIZER_STATES) * held_bytes(self.task)

    def to(self, device: torch.device) -> None:
        self.endpoints.to(device)

    def state_dict(self) -> dict[str, Any]:
        return self.endpoints.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.endpoints.load_state_dict(state)

    def save(self, folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
        for name, end in ((TASK, self.task), (SAFE, self.safe)):
            end.save_pretrained(folder / name)
            tokenizer.save_pretrained(folder / name)

    def save_at(self, alpha: float, folder: Path, merged: bool) -> None:
        self.set_alpha(alpha)
        self.model.save_pretrained(folder)


class LowRankEndpoints:
    """θ(α) = θ_s + α·s·B₁A₁ + (1 − α)·s·B₀A₀: two LoRA adapters, both active, scaled by PEFT.

    Their sum is one adapter of rank 2r, whose factors are [B₁ B₀] and [α·s·A₁; (1 − α)·s·A₀].
    """

    def __init__(self, model: PeftModel) -> None:
        self.model = model
        self._layers = [layer for layer in model.modules() if isinstance(layer, LoraLayer)]
        self._activate()

    def set_alpha(self, alpha: float) -> None:
        for layer in self._layers:
            layer.set_scale(TASK, alpha)
            layer.set_scale(SAFE, 1 - alpha)

    def trained(self) -> nn.Module:
        return self.model

    def share_gradient(self, alpha: float) -> None:
        """The scales have shared it already."""

    def extra_bytes(self) -> int:
        both = sum(held_bytes(weight) for weight in self.model.parameters() if weight.requires_grad)
        return (1 + _OPTIMIZER_STATES) * both // 2

    def to(self, device: torch.device) -> None:
        """The adapters move with the model."""

    def state_dict(self) -> dict[str, Any]:
        return {}  # a checkpoint of the model holds both adapters

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._activate()  # Transformers leaves one of several adapters active

    def save(self, folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model.save_pretrained(folder)
        for name in (TASK, SAFE):
            tokenizer.save_pretrained(folder / name)

    def save_at(self, alpha: float, folder: Path, merged: bool) -> None:
        self.set_alpha(alpha)
        if merged:
            # A merge writes into the weights below the adapter, which are not the dial's alone.
            deepcopy(self.model).merge_and_unload().save_pretrained(folder)
            return
        # PEFT writes the adapter of this name into the folder itself, others into one below it.
        name = "default"
        self.model.add_weighted_adapter([TASK, SAFE], [1.0, 1.0], name, combination_type="cat")
        self.model.save_pretrained(folder, selected_adapters=[name])
        self.model.delete_adapter(name)
        self._activate()

    def _activate(self) -> None:
        self.model.base_model.set_adapter([TASK, SAFE])


def new_endpoints(model: PreTrainedModel, peft_config: PeftConfig | None) -> Endpoints:
    """Both ends at θ_s: two copies of the model or, with a LoRA configuration, two new adapters.

    Raises:
        UserError: the model has an adapter already; or a new one is asked for that trains more than
            s·BA, so that two of them do not add up to one.
    """
    if isinstance(model, PeftModel):
        raise UserError(
            "a dial puts adapters of its own on the aligned model. Merge this one first: "
            "model = model.merge_and_unload(), and give a peft_config."
        )
    if peft_config is None:
        return DenseEndpoints(model, deepcopy(model), deepcopy(model))
    _require_what_adds_up(peft_config)
    peft_model = get_peft_model(model, peft_config, adapter_name=TASK)
    peft_model.add_adapter(SAFE, replace(peft_config))
    return LowRankEndpoints(peft_model)


def load_endpoints(folder: Path, aligned_model: PreTrainedModel) -> Endpoints:
    """The ends that `Endpoints.save` wrote; adapters share the weights of `aligned_model`."""
    if (folder / TASK / ADAPTER_FILE).exists():
        base = sharing_all(aligned_model)
        model = PeftModel.from_pretrained(base, str(folder / TASK), adapter_name=TASK)
        model.load_adapter(str(folder / SAFE), SAFE)
        return LowRankEndpoints(model)
    device = aligned_model.device
    task, safe = (load_model(str(folder / name))[0].to(device) for name in (TASK, SAFE))
    return DenseEndpoints(deepcopy(aligned_model), task, safe)


def _require_what_adds_up(config: PeftConfig) -> None:
    if not isinstance(config, LoraConfig) or config.use_dora or config.use_rslora:
        raise UserError(
            "a dial adds up two adapters, which plain LoRA ones do. Give a LoraConfig without "
            "use_dora and use_rslora, or none to train all weights."
        )
    beside = {
        "bias": config.bias != "none",
        "lora_bias": config.lora_bias,
        "modules_to_save": config.modules_to_save,
        "trainable_token_indices": config.trainable_token_indices,
        "target_parameters": config.target_parameters,
        "init_lora_weights": config.init_lora_weights not in B_IS_ZERO_AT_FIRST,
    }
    asked = [name for name, is_asked in beside.items() if is_asked]
    if asked:
        raise UserError(
            f"a dial adds up two adapters, and what {', '.join(asked)} asks for does not add up. "
            "Leave it out, or train all weights."
        )
