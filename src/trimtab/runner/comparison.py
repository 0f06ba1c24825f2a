"""Every method over its own hyperparameter: the grid that puts them beside each other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from trimtab.config.experiment import (
    Block,
    Dial,
    Experiment,
    Measuring,
    Training,
)
from trimtab.config.methods import PUBLISHED
from trimtab.data.synthetic import CONTEXTS, RESPONSES, make_world, write_data
from trimtab.errors import UserError
from trimtab.models import save_tiny_llama

SEEDS = (0, 1, 2)

# Five values for each, half a decade or so apart, about where it runs from nearly plain to nearly
# untouched in a world that is not the one reported on.
CASES: tuple[Block, ...] = (
    Block("alignment-loss", penalties=(0.0, 0.03, 0.1, 0.3, 1.0, 3.0)),
    Block("alignment-loss", budgets=(0.05, 0.1, 0.2, 0.3, 0.4)),
    Block("alignment-parameter", penalties=(0.01, 0.03, 0.1, 0.3, 1.0)),
)
DIAL_BLOCK = Block("dial", values=(0.0, 0.25, 0.5, 0.75, 1.0))


def comparison_of(experiment: Experiment) -> tuple[Experiment, dict[str, str]]:
    """The experiment with every method in its grid at equal rows a step, and what is left out, why.

    A grid that names a method already is kept as it is: its values are the user's choice. Methods
    that need the model from before it was aligned are left out where it is not aligned here, and
    where adapters are trained those that take none.
    """
    equal = replace(experiment, train=replace(experiment.train, equal_rows=True))
    if any(block.case == "method" for block in experiment.grid):
        return equal, {}
    left_out: dict[str, str] = {}
    for name, method in PUBLISHED.items():
        if method.needs_unaligned and experiment.align is None:
            left_out[name] = "it needs the model from before it was aligned (align)"
        elif method.trains_whole_weights and experiment.train.lora_rank is not None:
            left_out[name] = "it trains whole weights, and an adapter is asked for (lora_rank)"
    blocks = tuple(Block("method", method=name) for name in PUBLISHED if name not in left_out)
    if experiment.dial is None and experiment.train.epochs is not None:
        raise UserError(
            "train.epochs: how many steps a dial takes beside it is not said. Give train.steps "
            "instead, or dial: {steps: …}."
        )
    # One training of twice a run's steps stands for all of a dial's settings.
    dial = experiment.dial or Dial(steps=2 * experiment.train.steps)
    return replace(equal, dial=dial, grid=(*CASES, DIAL_BLOCK, *blocks)), left_out


def comparison_world(folder: Path, seed: int = 0, replace_world: bool = False) -> Experiment:
    """A finite world to compare in: a near proxy, and a task that shares all prompts with it.

    Raises:
        UserError: the folder holds another world, and `replace_world` is false.
    """
    world = make_world({"near": 0.1}, {"shared": 1.0}, seed)
    original, safety, task = write_data(world, folder, rows=4000, seed=seed, replace=replace_world)
    save_tiny_llama([*CONTEXTS, *RESPONSES], folder / "base", seed)
    return Experiment(
        model=str((folder / "base").resolve()),
        original=original,
        safety=safety,
        task=task,
        align=Training(steps=200, batch_size=64, learning_rate=2e-3),
        train=Training(steps=100, batch_size=32, learning_rate=2e-3, equal_rows=True),
        grid=CASES,
        seeds=SEEDS,
        measure=Measuring(tokens_per_batch=16_384),
        data_root=str(folder.resolve()),
    )
