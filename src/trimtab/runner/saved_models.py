"""A saved adapter on a model that is in memory already."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

from peft import PeftConfig, PeftModel
from transformers import PreTrainedModel

from trimtab.measure.shared_weights import sharing_all
from trimtab.models import with_adapter
from trimtab.results.checksums import ADAPTER_FILE
from trimtab.train.settings import leaves_base_alone


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter, and not a model by itself."""
    return (folder / ADAPTER_FILE).exists()


def adapter_on(
    start: PreTrainedModel, base: str, folder: Path, base_of_its_own: bool = False
) -> PeftModel:
    """The adapter in `folder` on `start`, which was loaded from `base` and stays as it is.

    The weights below the adapter are those of `start`, not copied, unless it writes into them or
    somebody will: then it has a `base_of_its_own`.

    Raises:
        UserError: the adapter's weights are not those of its configuration on this model.
    """
    shares = leaves_base_alone(PeftConfig.from_pretrained(str(folder))) and not base_of_its_own
    return with_adapter(sharing_all(start) if shares else deepcopy(start), base, str(folder))
