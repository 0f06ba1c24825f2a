"""The whole path on a world whose answer is known: no download, and every number measured."""

from __future__ import annotations

from pathlib import Path

from trimtab.config.experiment import Block, Experiment, Measuring, Training
from trimtab.data.synthetic import CONTEXTS, RESPONSES, make_world, write_data
from trimtab.models import save_tiny_llama

BASE_FOLDER = "base"

DISSIMILARITY = {"near": 0.1, "far": 0.6}
OVERLAP = {"separate": 0.0, "mixed": 0.5, "shared": 1.0}

PENALTIES = (0.0, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
FEWER_PENALTIES = (0.03, 0.3, 3.0)
PARAMETER_PENALTIES = (0.0, 0.03, 0.1, 0.3, 1.0, 3.0)


def demo_experiment(folder: Path, seed: int = 0, replace_world: bool = False) -> Experiment:
    """The paper's three figures in a finite world, with its data and a base model in `folder`.

    A near and a far proxy over λ on the task that shares all prompts with them, two more context
    overlaps with the near proxy, and the parameter constraint on two tasks.

    Raises:
        UserError: the folder holds another world, and `replace_world` is false.
    """
    world = make_world(DISSIMILARITY, OVERLAP, seed)
    original, safety, task = write_data(world, folder, rows=4000, seed=seed, replace=replace_world)
    save_tiny_llama([*CONTEXTS, *RESPONSES], folder / BASE_FOLDER, seed)
    return Experiment(
        model=str((folder / BASE_FOLDER).resolve()),
        original=original,
        safety=safety,
        task=task,
        align=Training(steps=200, batch_size=64, learning_rate=2e-3),
        train=Training(steps=100, batch_size=64, learning_rate=2e-3),
        grid=(
            Block("alignment-loss", PENALTIES, tasks=("shared",)),
            Block(
                "alignment-loss", FEWER_PENALTIES, proxies=("near",), tasks=("separate", "mixed")
            ),
            Block("alignment-parameter", PARAMETER_PENALTIES, tasks=("shared", "mixed")),
        ),
        seeds=(seed, seed + 1),
        measure=Measuring(tokens_per_batch=16_384, landscape_rows=500),
        data_root=str(folder.resolve()),
    )
