"""A small sweep: both cases over their hyperparameters, then the results as a table.

Prints method, value, the two gaps and the distance of each model, and what keeps a budget at the
least task loss. A minute of CPU time.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp

from trimtab import read_results
from trimtab.config.experiment import Block, Training
from trimtab.config.yaml_io import to_yaml
from trimtab.runner.demo import demo_experiment


def trimtab(*arguments: str) -> None:
    """Run a command, as a shell would."""
    subprocess.run([sys.executable, "-m", "trimtab", *arguments], check=True)


def main(steps: int = 60) -> None:
    folder = Path(mkdtemp())
    experiment = replace(
        demo_experiment(folder),
        align=Training(steps=100, batch_size=64, learning_rate=2e-3),
        train=Training(steps=steps, batch_size=32, learning_rate=2e-3),
        grid=(
            Block("alignment-loss", (0.0, 0.3, 3.0), proxies=("near",), tasks=("shared",)),
            Block("alignment-parameter", radii=(0.5, 1.0), proxies=("near",), tasks=("shared",)),
        ),
        seeds=(0,),
    )
    (folder / "experiment.yaml").write_text(to_yaml(experiment), encoding="utf-8")
    trimtab("sweep", str(folder / "experiment.yaml"), "--out", str(folder / "results"))
    frame = read_results(folder / "results").frame()
    columns = ["method", "value", "alignment_gap", "capability_gap", "distance"]
    print(frame[columns].round(3).to_string(index=False))
    trimtab("suggest", str(folder / "results"), "--budget", "0.1")


if __name__ == "__main__":
    main()
