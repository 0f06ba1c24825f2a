"""How an audit looks: how many rows, by which extractor, over which weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from trimtab.config.data_source import Lengths
from trimtab.config.loading import Loading
from trimtab.config.ranges import Above0, Count, From0Below1, Range, Rank, Seed, check_ranges
from trimtab.errors import UserError

Landscape = Literal["lora", "full", "none"]

WORDS, MODEL = "words", "model"

FEWEST_ROWS = 20
"""Below this many rows a side an interval spans nearly everything."""


@dataclass(frozen=True)
class AuditSettings:
    """What may be chosen about an audit.

    Raises:
        UserError: a number is out of its range.
    """

    __pydantic_config__: ClassVar[Any] = {"use_attribute_docstrings": True}

    rows: Annotated[int, Range(at_least=FEWEST_ROWS, at_most=2**31 - 1)] = 400
    """Rows of each data set that the model reads; overlaps by words take all."""
    lengths: Lengths = field(default_factory=Lengths)
    """Where prompts and responses are cut, in tokens."""
    embedding: str | None = None
    """What rows are compared by: words, model, or a name of another model to read them with. When
    not given, similarity is by the model's hidden states and overlap by words."""
    budget: Above0 = 0.1
    """The rise of the safety loss that is allowed, in nats per token: suggestions are for it."""
    drop: From0Below1 = 0.05
    """The share of the task rows looked at that may be left out: those that lower safety most."""
    landscape: Landscape = "lora"
    """The weights of the landscape: where a LoRA adapter starts, all, or no landscape. It takes
    float32, or nf4 computed in it."""
    landscape_rank: Rank = 8
    """The rank of the LoRA subspace."""
    landscape_rows: Annotated[int, Range(at_least=4, at_most=2**31 - 1)] = 16
    """Rows behind slopes, curvatures and loss profiles, of each data set."""
    tokens_per_batch: Count = 2048
    """Tokens in one forward pass, padding included."""
    load: Loading = field(default_factory=Loading)
    """How the model's weights are held in memory."""
    repeats: bool = False
    """Rows are draws that may come again, as many answers to few prompts are: take each for itself.
    Else answers to one prompt are not told apart from each other."""
    seed: Seed = 0
    """Which rows are chosen, and every draw."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.landscape == "none":
            return
        if self.load.is_half or self.load.quantization == "int8":
            raise self.too_coarse(self.load.in_words)
        if self.landscape == "full" and self.load.is_quantised:
            raise UserError(
                "landscape full is over all weights in float32. Give --landscape lora, or load the "
                "model in float32."
            )

    def too_coarse(self, held_in: str) -> UserError:
        """Of a model that rounds away the differences that a landscape is made of."""
        return UserError(
            f"landscape {self.landscape} takes small differences between losses, and {held_in} "
            "rounds them away. Give --landscape none, or --dtype float32 without --quantization."
        )
