"""Plain fine-tuning in built-in worlds, with the safety loss measured at every other step.

    python experiments/growth/world.py RUNS/growth

Each world has its own data, base model and θ_s, which 400 steps have brought near the least L_s
there is. Two optimizers, each at a constant learning rate, so that training time is steps times
rate. `smollm2.yaml` is the same on a real model.
"""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console

from trimtab.cli.progress import TerminalWatcher
from trimtab.config.experiment import Block, Experiment, Measuring, Training
from trimtab.data.synthetic import CONTEXTS, RESPONSES, make_world, write_data
from trimtab.models import quiet_libraries, save_tiny_llama
from trimtab.runner.sweep import sweep

WORLDS = range(8)
CONSTANT = {"lr_scheduler_type": "constant"}
OPTIMIZERS = {
    "adamw": Training(steps=48, batch_size=64, learning_rate=5e-5, sft=CONSTANT),
    "sgd": Training(steps=48, batch_size=64, learning_rate=0.02, sft={**CONSTANT, "optim": "sgd"}),
}


def main() -> None:
    runs = Path(sys.argv[1])
    quiet_libraries()
    for number in WORLDS:
        world = make_world({"near": 0.1}, {"shared": 1.0}, number)
        folder = runs / f"world-{number}"
        original, safety, task = write_data(world, folder, rows=4000, seed=number)
        save_tiny_llama([*CONTEXTS, *RESPONSES], folder / "base", number)
        for name, training in OPTIMIZERS.items():
            experiment = Experiment(
                model=str((folder / "base").resolve()),
                original=original,
                safety=safety,
                task=task,
                align=Training(steps=400, batch_size=64, learning_rate=2e-3),
                train=training,
                grid=(Block("alignment-loss", (0.0,), proxies=("near",)),),
                seeds=(number,),
                measure=Measuring(tokens_per_batch=16_384, every=2, live_rows=2000),
                data_root=str(folder.resolve()),
            )
            with TerminalWatcher(Console(stderr=True)) as watcher:
                sweep(experiment, folder / name, watcher)


if __name__ == "__main__":
    main()
