"""An experiment in a small world whose answer is known, for tests that train."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from trimtab.config.experiment import Experiment
from trimtab.data.synthetic import CONTEXTS, RESPONSES, make_world, write_data
from trimtab.models import save_tiny_llama

NEAR: Mapping[str, float] = MappingProxyType({"near": 0.1})


def small_world(
    folder: Path, rows: int, proxies: Mapping[str, float] = NEAR, **settings: Any
) -> Experiment:
    """The experiment: one task that shares its prompts with the proxies, `rows` draws of each."""
    world = make_world(dict(proxies), {"shared": 1.0})
    original, safety, task = write_data(world, folder, rows=rows)
    save_tiny_llama([*CONTEXTS, *RESPONSES], folder / "base", seed=0)
    return Experiment(
        model=str(folder / "base"),
        original=original,
        safety=safety,
        task=task,
        data_root=str(folder),
        **settings,
    )
