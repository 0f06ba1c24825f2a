"""One hyperparameter at a time round a centre, for two tasks and two kinds of safety data.

    cp DATA/{dolly-sensitive,do-not-answer-chatgpt}.jsonl.gz RUNS/conflict-data
    python experiments/knobs/run.py RUNS/conflict-data RUNS/conflict/aligned RUNS/knobs [VARIANT]

All start from the conflict's θ_s, with its data. Some two hours a task and seed on one core; stop
it at any time, the same command goes on. Given names of variants, it makes those alone. What lies
whole in results/ is not made again: to make all of it anew, remove results/ first.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from trimtab.cli.progress import TerminalWatcher
from trimtab.config.data_source import DataSource, Lengths
from trimtab.config.experiment import Answers, Block, Experiment, Measuring, Training
from trimtab.config.grid import plan_of
from trimtab.config.run_spec import RunSpec
from trimtab.models import quiet_libraries
from trimtab.results.store import read_points
from trimtab.runner.sweep import sweep

RESULTS = Path(__file__).parent / "results"
CENTRE = Training(
    steps=16, batch_size=4, learning_rate=5e-4, lora_rank=16, equal_rows=True, checkpoint_every=8
)
PENALTIES = (0.0, 1.0, 0.3, 3.0)
VARIANTS = {
    "centre": CENTRE,
    "safety-share-0.25": replace(CENTRE, safety_share=0.25),
    "safety-share-0.75": replace(CENTRE, safety_share=0.75),
    "learning-rate-0.0002": replace(CENTRE, learning_rate=2e-4),
    "learning-rate-0.001": replace(CENTRE, learning_rate=1e-3),
    "steps-8": replace(CENTRE, steps=8),
    "steps-32": replace(CENTRE, steps=32),
    "rank-4": replace(CENTRE, lora_rank=4),
    "rank-64": replace(CENTRE, lora_rank=64),
}
TASKS = {"alpaca": "alpaca.jsonl.gz", "sensitive": "dolly-sensitive.jsonl.gz"}
SEEDS = (0, 1, 2)


def main() -> None:
    data, aligned, runs = (Path(argument).resolve() for argument in sys.argv[1:4])
    quiet_libraries()
    for seed in SEEDS:
        for task in TASKS:
            for name in sys.argv[4:] or VARIANTS:
                variant = experiment(name, task, seed, data, aligned)
                if not lacking(variant, RESULTS / f"{name}-{task}-{seed}"):
                    continue
                with TerminalWatcher(Console(stderr=True)) as watcher:
                    sweep(variant, runs / f"{name}-{task}-{seed}", watcher)


def lacking(variant: Experiment, results: Path) -> set[RunSpec]:
    """What of a sweep's plan was not measured."""
    measured = {point.spec for point in read_points(results)} if results.exists() else set()
    return set(plan_of(variant).specs) - measured


def experiment(name: str, task: str, seed: int, data: Path, aligned: Path) -> Experiment:
    """The sweep of a variant on a task."""
    training = VARIANTS[name]
    # With another share of safety rows plain fine-tuning is the centre's.
    is_plain_the_same = replace(training, safety_share=CENTRE.safety_share) == CENTRE
    penalties = PENALTIES if name == "centre" else (1.0,) if is_plain_the_same else (0.0, 1.0)
    return Experiment(
        model=str(aligned),
        original=DataSource("original.jsonl", held_out_rows=100),
        safety={
            "judging": DataSource("judging.jsonl", held_out_rows=16),
            "refusing": DataSource(
                "do-not-answer-chatgpt.jsonl.gz", where={"harmful": 0}, held_out_rows=16
            ),
        },
        task={task: DataSource(TASKS[task], held_out_rows=100)},
        train=training,
        grid=(Block("alignment-loss", penalties),),
        answers=Answers(harmful=(answered("harmful"),), benign=(answered("benign"),), tokens=24),
        measure=Measuring(every=0),
        seeds=(seed,),
        lengths=Lengths(prompt=48, response=64),
        data_root=str(data),
    )


def answered(category: str) -> DataSource:
    return DataSource("safety-prompts.jsonl.gz", where={"category": category}, rows=60)


if __name__ == "__main__":
    main()
