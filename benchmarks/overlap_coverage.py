"""How often does the 95 % interval of a context overlap hold its long-run mean?

    python benchmarks/overlap_coverage.py DATA > benchmarks/results/overlap_coverage.txt

Ten minutes on a core. Task and safety prompts are drawn without replacement from files of
DATA (docs/audit/overlap.sh) that hold six times as many or more, so that few draws share a prompt,
or with replacement from the built-in world; what is to be held is the mean of the estimate over all
draws. The pair of equal names is one file, from which both sets are drawn and no prompt twice. Told
are both directions, o = task on safety and ρ = safety on task, with the spread of the estimate over
draws, the mean half-width of the intervals, and how often the mean lay above and below them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trimtab.config.data_source import DataSource
from trimtab.data.sources import read_rows
from trimtab.data.synthetic import CONTEXTS, make_world
from trimtab.measure.overlap import context_overlap
from trimtab.report.markdown import markdown_table
from trimtab.stats import Estimate

DRAWS = 100
Draw = Callable[[np.random.Generator], tuple[list[str], list[str]]]


@dataclass(frozen=True)
class Case:
    name: str
    sizes: tuple[int, int]
    drawn: Draw


def main() -> None:
    lines = []
    for case in cases(Path(sys.argv[1])):
        overlaps = []
        for seed in range(DRAWS):
            task, safety = case.drawn(np.random.default_rng(seed))
            overlaps.append(context_overlap(task, safety, pairs=0, seed=seed))
        for way, estimates in (
            ("o", [overlap.task_on_safety for overlap in overlaps]),
            ("ρ", [overlap.safety_on_task for overlap in overlaps]),
        ):
            lines.append(
                (case.name, " and ".join(map(str, case.sizes)), *estimate_cells(way, estimates))
            )
            print(lines[-1], file=sys.stderr)
    print(f"{DRAWS} draws of each; nominal is 95 %.\n")
    columns = ("pair", "prompts", "", "mean", "spread", "half-width", "covers", "above", "below")
    print(markdown_table(columns, lines))


def estimate_cells(way: str, estimates: list[Estimate]) -> tuple[str, ...]:
    values, lows, highs = (
        np.array([getattr(estimate, name) for estimate in estimates])
        for name in ("value", "low", "high")
    )
    mean = values.mean()
    above, below = (highs < mean).mean(), (lows > mean).mean()
    return (
        way,
        f"{mean:.3f}",
        f"{values.std(ddof=1):.3f}",
        f"{(highs - lows).mean() / 2:.3f}",
        *(f"{share:.1%}" for share in (1 - above - below, above, below)),
    )


def cases(data: Path) -> list[Case]:
    def of_files(task: str, safety: str, sizes: tuple[int, int]) -> Case:
        ours, theirs = (prompts(data / f"{name}.jsonl.gz") for name in (task, safety))

        def draw(generator: np.random.Generator) -> tuple[list[str], list[str]]:
            task_prompts = generator.permutation(ours)[: sizes[0]].tolist()
            excluded = set(task_prompts)
            safety_prompts = [
                prompt for prompt in generator.permutation(theirs) if prompt not in excluded
            ]
            return task_prompts, [str(prompt) for prompt in safety_prompts[: sizes[1]]]

        return Case(f"{task}, {safety}", sizes, draw)

    def of_world(overlap: float, sizes: tuple[int, int]) -> Case:
        world = make_world({"proxy": 0.2}, {"task": overlap})
        contexts = [side.contexts for side in (world.task["task"], world.safety["proxy"])]

        def draw(generator: np.random.Generator) -> tuple[list[str], list[str]]:
            ours, theirs = (
                generator.choice(CONTEXTS, size, p=chances).tolist()
                for size, chances in zip(sizes, contexts, strict=True)
            )
            return ours, theirs

        return Case(f"world of overlap {overlap:g}", sizes, draw)

    return [
        of_files("alpaca", "alpaca", (200, 300)),
        of_files("dolly", "alpaca", (200, 300)),
        of_files("gpteacher-roleplay", "dolly", (200, 200)),
        of_files("code-alpaca", "alpaca", (150, 250)),
        of_world(0.5, (300, 300)),
    ]


def prompts(path: Path) -> list[str]:
    rows = read_rows(DataSource(str(path)), None)
    return list(dict.fromkeys(row.prompt[-1].content for row in rows))


if __name__ == "__main__":
    main()
