"""How a model's weights are held in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

Dtype = Literal["float32", "bfloat16", "float16", "auto"]
Quantization = Literal["none", "nf4", "int8"]


@dataclass(frozen=True)
class Loading:
    """How a model's weights are loaded: their numbers, whose attention, where to.

    Quantised weights, and weights in half precision, are those below an adapter: what is trained is
    always float32. A folder that is quantised already is loaded as it is.

    Source: NF4 and double quantisation, Dettmers et al. 2023, "QLoRA", arXiv 2305.14314; int8,
    Dettmers et al. 2022, "LLM.int8()", arXiv 2208.07339; both as in bitsandbytes.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {
        "extra": "forbid",
        "use_attribute_docstrings": True,
    }

    dtype: Dtype = "float32"
    """What weights are held and computed in; auto is what the model was saved in."""
    quantization: Quantization = "none"
    """Linear layers in 4 bits (nf4) or 8 (int8), under an adapter; all else stays in dtype."""
    double_quantization: bool = True
    """With nf4: the scales of its blocks in 8 bits too."""
    attention: str | None = None
    """Transformers' attention: sdpa, eager, flash_attention_2; its own choice when not given."""
    revision: str | None = None
    """The branch, tag or commit of a Hub id."""
    device_map: str | None = None
    """Where layers go, as Accelerate says it: auto spreads them; one device when not given."""

    @property
    def in_words(self) -> str:
        """What weights are held in, where that is not float32, as in "bfloat16 nf4"."""
        dtype = "" if self.dtype == "float32" else self.dtype
        return f"{dtype} {self.quantization if self.is_quantised else ''}".strip()

    @property
    def is_quantised(self) -> bool:
        """Whether weights are quantised as they are loaded."""
        return self.quantization != "none"

    @property
    def is_half(self) -> bool:
        """Whether weights are asked for in 16 bits."""
        return self.dtype in ("bfloat16", "float16")
