"""What mends a model after training, from weights alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from trimtab.config.ranges import check_ranges
from trimtab.errors import UserError


class PostHocMethod(ABC):
    """A change of a trained model's weights that needs no training: a method after the fact."""

    needs_unaligned: ClassVar[bool] = False
    """Whether it needs the model from before it was aligned."""
    merges: ClassVar[bool] = False
    """Whether it writes into the weights below an adapter, and so needs a copy of them."""

    def __post_init__(self) -> None:
        check_ranges(self)

    @abstractmethod
    def apply(self, model: Any, aligned: PreTrainedModel, unaligned: PreTrainedModel | None) -> Any:
        """`model`, changed in place, or what has taken its place.

        Args:
            model: fine-tuned from `aligned`, all weights or a LoRA adapter on it.
            aligned: θ_s.
            unaligned: the model that θ_s was aligned from.

        Raises:
            UserError: the three do not fit each other, or one that is needed is missing.
        """


def weights_of(model: nn.Module, role: str, like: nn.Module) -> dict[str, Tensor]:
    """The weights of a model by full name. Raises UserError where they are not those of `like`."""
    named = model.named_parameters(remove_duplicate=False)  # one may be shared here and not there
    weights = {name: weight.detach() for name, weight in named}
    shapes = {name: weight.shape for name, weight in like.named_parameters()}
    for name, shape in shapes.items():
        if name not in weights or weights[name].shape != shape:
            raise UserError(
                f"the {role} model has no weight {name} of shape {tuple(shape)}. Give the model "
                "that this one comes from."
            )
    return weights


_Model = TypeVar("_Model", bound=nn.Module)


def required(unaligned: _Model | None, name: str) -> _Model:
    """The unaligned model. Raises UserError where there is none."""
    if unaligned is None:
        raise UserError(
            f"{name} needs the model from before it was aligned. Give it as --unaligned, or in an "
            "experiment align the model with align:."
        )
    return unaligned


@torch.no_grad()
def add_(weight: Tensor, term: Tensor) -> None:
    """w ← w + term, wherever the term lies."""
    weight.add_(term.to(weight))
