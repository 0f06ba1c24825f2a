"""Tell the context overlaps of the points kept here by the estimator as it is now.

    python docs/reproduction/overlaps.py DATA

An overlap is of prompts alone: it needs the data, and no model. What else the points hold stays as
it was measured; their figures are drawn anew.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

from trimtab.config.yaml_io import EXPERIMENT_FILE, read_experiment
from trimtab.data.splits import read_roles
from trimtab.measure.overlap import prompt_overlap
from trimtab.report import write_report
from trimtab.results.files import write_json_lines
from trimtab.results.store import POINTS_FILE, read_points
from trimtab.stats import Estimate

HERE = Path(__file__).parent
RECIPES = ("smollm2", "smollm2-safety")


def put_overlaps(folder: Path, data: Path) -> None:
    """Put the overlaps of an experiment's training prompts into its points."""
    experiment = replace(read_experiment(folder / EXPERIMENT_FILE), data_root=str(data))
    roles = read_roles(experiment)

    @cache
    def overlap(task: str, proxy: str) -> Estimate:
        task_prompts, safety_prompts = (
            [row.prompt[-1].content for row in split.train]
            for split in (roles.task[task], roles.safety[proxy])
        )
        return prompt_overlap(task_prompts, safety_prompts)

    points = [
        replace(point, context_overlap=overlap(point.task, str(point.proxy)))
        for point in read_points(folder)
    ]
    write_json_lines(folder / POINTS_FILE, (point.to_json() for point in points))
    write_report(folder)
    for file in (
        folder / "report.html",
        *folder.glob("figures/*.pdf"),
        *folder.glob("figures/*.svg"),
    ):
        file.unlink()


def main() -> None:
    data = Path(sys.argv[1])
    for name in RECIPES:
        put_overlaps(HERE / name, data)


if __name__ == "__main__":
    main()
