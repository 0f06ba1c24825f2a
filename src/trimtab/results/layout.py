"""What an experiment's folder holds of models, and where."""

from __future__ import annotations

from pathlib import Path

ALIGNED_FOLDER = "aligned"
"""The aligned model θ_s, where the experiment made it."""
DIAL_FOLDER = "dial"
"""Both ends of a dial that `trimtab dial train` made."""
MODELS_FOLDER = "models"


def setting_name(dial: str, alpha: float) -> str:
    """What the answers and losses of a setting of a dial are kept under."""
    return f"{dial}-{alpha:.6g}"


def model_folder(folder: Path, name: str) -> Path:
    """Where an experiment in `folder` keeps one of its trained models."""
    return folder / MODELS_FOLDER / name
