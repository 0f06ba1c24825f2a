"""What the libraries below say while they work, left unsaid."""

from __future__ import annotations

import logging
import warnings

import datasets
import transformers


def quiet_libraries() -> None:
    """No progress bars or advice from the libraries that load, save and train models."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it tells of every retry
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
