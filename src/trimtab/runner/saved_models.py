"""Models that a run has saved, and the one that they start from."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from peft import PeftConfig, PeftModel, load_peft_weights
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimtab.config.experiment import Experiment
from trimtab.config.loading import Loading
from trimtab.measure.shared_weights import sharing_all
from trimtab.models import load_model, name_base_portably, to_device, with_adapter
from trimtab.results.checksums import ADAPTER_FILE, CARD_FILE, write_checksums
from trimtab.results.files import write_atomically, written_whole
from trimtab.results.layout import ALIGNED_FOLDER
from trimtab.train.settings import leaves_base_alone


def start_of(experiment: Experiment, folder: Path) -> str:
    """The model that an experiment's trainings in `folder` start from, by its name or folder."""
    aligned = folder / ALIGNED_FOLDER
    return str(aligned) if aligned.exists() else experiment.model


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter, and not a model by itself."""
    return (folder / ADAPTER_FILE).exists()


def adapter_on(
    start: PreTrainedModel, base: str, folder: Path, base_of_its_own: bool = False
) -> PeftModel:
    """The adapter in `folder` on `start`, which was loaded from `base` and stays as it is.

    The weights below the adapter are those of `start`, not copied, unless its file holds some of
    them too (biases, embeddings) or somebody will write there: then it has a `base_of_its_own`.

    Raises:
        UserError: the adapter's weights are not those of its configuration on this model.
    """
    shares = not base_of_its_own and not _holds_weights_of(start, folder)
    return with_adapter(sharing_all(start) if shares else deepcopy(start), base, str(folder))


@contextmanager
def written_model(
    folder: Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
    records: Mapping[str, Any] = MappingProxyType({}),
    card: Callable[[Path], str] | None = None,
    costs: Mapping[str, Any] = MappingProxyType({}),
) -> Iterator[Path]:
    """A new folder to save weights into, which becomes `folder` when all that belongs there is.

    Args:
        tokenizer: saved beside the weights, where what saves these does not.
        records: dataclasses to keep, by the names of their files.
        card: makes the card of a folder, which people edit; so it comes after the checksums.
        costs: as `records`; the seconds in them are others every time, so that they have no sum.
    """
    with written_whole(folder) as unfinished:
        yield unfinished
        if tokenizer is not None:
            tokenizer.save_pretrained(unfinished)
        name_base_portably(unfinished)
        _write_records(unfinished, records)
        write_checksums(unfinished)
        _write_records(unfinished, costs)
        if card is not None:
            write_atomically(unfinished / CARD_FILE, card(unfinished))


def load_whole(folder: Path, load: Loading) -> PreTrainedModel:
    """A model that was saved by itself, on its device; its folder has no revisions to ask for."""
    return to_device(load_model(str(folder), replace(load, revision=None))[0])


def _write_records(folder: Path, records: Mapping[str, Any]) -> None:
    for file, record in records.items():
        write_atomically(folder / file, json.dumps(asdict(record), indent=1) + "\n")


def _holds_weights_of(start: PreTrainedModel, folder: Path) -> bool:
    """Whether an adapter's file has weights that would be read into the model below it."""
    config = PeftConfig.from_pretrained(str(folder))
    if not leaves_base_alone(config):
        return True
    copied = tuple(f"{module}." for module in getattr(config, "modules_to_save", None) or ())
    own = {name for name, _ in start.named_parameters(remove_duplicate=False)}
    held = {
        name.removeprefix("base_model.model.").replace(".base_layer.", ".")
        for name in load_peft_weights(str(folder), device="cpu")
    }
    return any(not any(module in name for module in copied) for name in held & own)
