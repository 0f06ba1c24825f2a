"""The two ends of a dial, and the model between them."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import PartialState
from peft import LoraConfig, PeftConfig, PeftModel, PeftType, get_peft_model
from peft.tuners.lora import LoraLayer, ParamWrapper
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimtab.errors import UserError
from trimtab.measure.adapters import B_IS_ZERO_AT_FIRST
from trimtab.measure.sharded_weights import is_sharded, reshard, shard_of, whole
from trimtab.measure.shared_weights import fill, sharing_all, without_weights
from trimtab.models import load_model, merged_model, name_base_as_here
from trimtab.results.checksums import ADAPTER_FILE
from trimtab.train.objectives.base import held_bytes

TASK, SAFE = "task", "safe"

_OPTIMIZER_STATES = 2
"""Adam's, for each weight."""

_SUM = "default"
"""PEFT writes the adapter of this name into a folder itself, others into one below it."""


class Endpoints(Protocol):
    """θ_task = θ(1) and θ_safe = θ(0), and a model that stands at one setting α between them."""

    model: PreTrainedModel | PeftModel
    """The model at the setting it was last turned to."""

    def set_alpha(self, alpha: float) -> None:
        """Set the model to θ(α)."""

    def trained(self) -> nn.Module:
        """The module whose parameters the optimizer moves."""

    def copies(self) -> list[tuple[nn.Parameter, ...]]:
        """Trained weights of the model, each with those that the optimizer moves in its place."""

    def share_gradient(self, alpha: float) -> None:
        """Hand the gradient at θ(α) on to the ends: α of it to θ_task, 1 − α to θ_safe."""

    def extra_bytes(self) -> int:
        """Memory beyond plain fine-tuning, with an optimizer that keeps two numbers per weight."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint of the model lacks of the endpoints."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Complete the model that was loaded from a checkpoint."""

    def save(self, folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
        """Write both endpoints, each a plain model or adapter, into a new folder.

        Every process calls it where ends of all weights are sharded; the first one writes.
        """

    def save_at(self, alpha: float, folder: Path, merged: bool) -> None:
        """Write θ(α) as one plain model or, where it is an adapter and not `merged`, as one."""

    def settle(self, alpha: float) -> None:
        """Make the model a plain one, θ(α), for good."""


class DenseEndpoints:
    """θ(α) = θ_safe + α(θ_task − θ_safe), all weights; the ends are two copies of the model.

    They get their weights when they are first asked for. By then FSDP2 has divided those of the
    model, where it does, and each process copies what it has of them.
    """

    def __init__(
        self, model: PreTrainedModel, ends: dict[str, PreTrainedModel] | None = None
    ) -> None:
        self.model = model
        self._has_ends = ends is not None
        self._is_settled = False
        self._ends = ends or {end: without_weights(model) for end in (TASK, SAFE)}

    @property
    def ends(self) -> dict[str, PreTrainedModel]:
        """θ_task and θ_safe, by name."""
        if not self._has_ends:
            for end in self._ends.values():
                fill(end, self.model)
                # TRL may have given the model another token to end with since.
                end.config, end.generation_config = self.model.config, self.model.generation_config
            self._has_ends = True
        return self._ends

    @cached_property
    def _places(self) -> list[tuple[nn.Parameter, nn.Parameter, nn.Parameter]]:
        task, safe = self.ends[TASK], self.ends[SAFE]
        return [
            (self.model.get_parameter(name), weight, safe.get_parameter(name))
            for name, weight in task.named_parameters()
            if weight.requires_grad
        ]

    @property
    def _is_sharded(self) -> bool:
        return any(is_sharded(weight) for weight in self.ends[TASK].parameters())

    @torch.no_grad()
    def set_alpha(self, alpha: float) -> None:
        if self._is_settled or not self._has_ends:  # before a step θ_s is θ(α) for every α
            return
        for weight, task, safe in self._places:
            torch.lerp(shard_of(safe), shard_of(task), alpha, out=shard_of(weight))
        reshard(self.model)

    def trained(self) -> nn.Module:
        return nn.ModuleDict(self.ends)

    def copies(self) -> list[tuple[nn.Parameter, ...]]:
        return [] if self._is_settled else list(self._places)

    def share_gradient(self, alpha: float) -> None:
        for weight, task, safe in self._places:
            task.grad = None if weight.grad is None else alpha * weight.grad
            safe.grad = None if weight.grad is None else (1 - alpha) * weight.grad

    def extra_bytes(self) -> int:
        if self._is_settled:
            return 0
        return (2 + _OPTIMIZER_STATES) * held_bytes(self.ends[TASK])

    def state_dict(self) -> dict[str, Any]:
        # Shards are in the checkpoint of the optimizer's weights already.
        return {} if self._is_settled or self._is_sharded else self.trained().state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if not self._is_sharded:
            self.trained().load_state_dict(state)

    def save(self, folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
        for name, end in self.ends.items():
            model = end
            if self._is_sharded:
                model = without_weights(end)
                fill(model, end, _whole_in_the_first_process)
                if not PartialState().is_main_process:
                    continue
            model.save_pretrained(folder / name)
            tokenizer.save_pretrained(folder / name)

    def save_at(self, alpha: float, folder: Path, merged: bool) -> None:
        self.set_alpha(alpha)
        self.model.save_pretrained(folder)

    def settle(self, alpha: float) -> None:
        self.set_alpha(alpha)
        self._is_settled, self._ends = True, {}
        self.__dict__.pop("_places", None)


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

    def copies(self) -> list[tuple[nn.Parameter, ...]]:
        return []

    def share_gradient(self, alpha: float) -> None:
        """The scales have shared it already."""

    def extra_bytes(self) -> int:
        adapter_bytes = sum(
            held_bytes(weight) for weight in self.model.parameters() if weight.requires_grad
        )
        return (1 + _OPTIMIZER_STATES) * adapter_bytes // 2

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
            merged_model(deepcopy(self.model)).save_pretrained(folder)
            return
        self._add_sum()
        self.model.save_pretrained(folder, selected_adapters=[_SUM])
        self.model.delete_adapter(_SUM)
        self._activate()

    def settle(self, alpha: float) -> None:
        self.set_alpha(alpha)
        self._add_sum()
        self.model.set_adapter(_SUM)
        for end in (TASK, SAFE):
            self.model.delete_adapter(end)

    def _add_sum(self) -> None:
        self.model.add_weighted_adapter([TASK, SAFE], [1.0, 1.0], _SUM, combination_type="cat")

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
        return DenseEndpoints(model)
    _require_what_adds_up(peft_config)
    peft_model = get_peft_model(model, peft_config, adapter_name=TASK)
    if any(isinstance(layer, ParamWrapper) for layer in peft_model.modules()):
        raise UserError(
            "a dial adds up two adapters, which adapters of fused experts do not. Name the other "
            "layers (target_modules=['q_proj', 'v_proj'], say), or train all weights."
        )
    peft_model.add_adapter(SAFE, replace(peft_config))
    return LowRankEndpoints(peft_model)


def load_endpoints(folder: Path, aligned_model: PreTrainedModel) -> Endpoints:
    """The ends that `Endpoints.save` wrote; adapters share the weights of `aligned_model`."""
    if (folder / TASK / ADAPTER_FILE).exists():
        base = sharing_all(aligned_model)
        model = PeftModel.from_pretrained(base, str(folder / TASK), adapter_name=TASK)
        model.load_adapter(str(folder / SAFE), SAFE)
        name_base_as_here(model, str(folder / TASK))
        return LowRankEndpoints(model)
    device = aligned_model.device
    ends = {name: load_model(str(folder / name))[0].to(device) for name in (TASK, SAFE)}
    return DenseEndpoints(deepcopy(aligned_model), ends)


def _whole_in_the_first_process(shard: Tensor) -> Tensor:
    values = whole(shard)
    return values.cpu() if PartialState().is_main_process else values.new_empty(0)


def _require_what_adds_up(config: PeftConfig) -> None:
    is_plain = isinstance(config, LoraConfig) and config.peft_type == PeftType.LORA
    if not is_plain or config.use_dora or config.use_rslora:
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
        "alora_invocation_tokens": config.alora_invocation_tokens,
        "init_lora_weights": config.init_lora_weights not in B_IS_ZERO_AT_FIRST,
    }
    names = [name for name, is_set in beside.items() if is_set]
    if names:
        raise UserError(
            f"a dial adds up two adapters, and what {', '.join(names)} asks for does not add up. "
            "Leave it out, or train all weights."
        )
