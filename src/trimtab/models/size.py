"""How large a model is, and how much it can read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from trimtab.data.encoding import Limits


@dataclass(frozen=True)
class ModelSize:
    """How large a model is, known without loading its weights."""

    parameters: int
    layers: int
    hidden: int
    limits: Limits
    linear: int
    """Parameters of the linear layers, but for the head: what is quantised, and has adapters."""
    linear_sides: int
    """Σ (in + out) of those layers: the parameters of an adapter of rank 1."""
    linear_outputs: int
    """Σ out of them."""
    linear_inputs_apart: int
    """Σ in of them, once for those of one block that are equally wide, as queries, keys and values
    read one tensor, and so do an MLP's gate and its branch."""
    widest_input: int
    """The largest in, which is an MLP's inner width."""
    largest_linear: int
    """The parameters of the largest of them."""

    @classmethod
    def of(cls, model: PreTrainedModel) -> ModelSize:
        """The size of a model, whose weights need no values."""
        config = model.config.get_text_config()
        head: Any = model.get_output_embeddings()
        blocks = [
            [part for part in block.children() if isinstance(part, nn.Linear) and part is not head]
            for block in model.modules()
        ]
        linear = [part for block in blocks for part in block]
        return cls(
            sum(weight.numel() for weight in model.parameters()),
            config.num_hidden_layers,
            config.hidden_size,
            limits_of(model),
            sum(part.weight.numel() for part in linear),
            sum(part.in_features + part.out_features for part in linear),
            sum(part.out_features for part in linear),
            sum(sum({part.in_features for part in block}) for block in blocks),
            max((part.in_features for part in linear), default=0),
            max((part.weight.numel() for part in linear), default=0),
        )


def limits_of(model: PreTrainedModel) -> Limits:
    """How much the model can read at once, and how many tokens it knows."""
    embeddings: Any = model.get_input_embeddings()
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return Limits(context, embeddings.weight.shape[0])
