"""What options are about: the panels that a command's help shows them in."""

from __future__ import annotations

from typing import Any

from trimtab.config.data_source import DataSource, Lengths
from trimtab.config.experiment import Dial, Measuring, Training
from trimtab.config.loading import Loading
from trimtab.results.generations import Decoding

KEPT = "Safety constraint"
DATA = "Data"
TRAINING = "Training"
SPEED = "Memory and speed"
MEASURING = "Measuring"
ANSWERS = "Answers and judges"

_OF_SETTINGS = {
    Dial: KEPT,
    DataSource: DATA,
    Lengths: DATA,
    Training: TRAINING,
    Loading: SPEED,
    Measuring: MEASURING,
    Decoding: ANSWERS,
}
_OF_FIELDS = {
    (Loading, "revision"): "Options",  # beside the model whose it is
    (Training, "safety_share"): KEPT,
    (Training, "safety_target"): KEPT,
    (Training, "validation_rows"): KEPT,
    (Training, "equal_rows"): KEPT,
    (Training, "precision"): SPEED,
    (Training, "packing"): SPEED,
    (Training, "gradient_checkpointing"): SPEED,
    (Training, "length_bucketing"): SPEED,
    (Training, "checkpoint_every"): SPEED,
}


def panel_of(kind: Any, name: str) -> str | None:
    """The panel of a field of settings; None for the one without a name of its own."""
    return _OF_FIELDS.get((kind, name), _OF_SETTINGS.get(kind))
