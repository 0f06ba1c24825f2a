"""Means of what harnesses measured, and their change sample by sample."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trimtab.errors import UserError
from trimtab.results.harness_samples import HarnessSample
from trimtab.stats import Array, Estimate, share, share_change, student_mean


def metrics(samples: Sequence[HarnessSample]) -> dict[str, Estimate]:
    """The mean over samples of each task's metrics, by "TASK METRIC".

    Where every value is 0 or 1 it is a share with the interval of `share`, else Student's.
    """
    estimates = {}
    for name, metric in _named(samples).items():
        values = np.array([value for sample in samples if (value := metric.of(sample)) is not None])
        has_flags = _are_flags(values)
        estimates[name] = (
            share(values, f"share of {name}") if has_flags else student_mean(values, name)
        )
    return estimates


def metric_changes(
    after: Sequence[HarnessSample], before: Sequence[HarnessSample]
) -> dict[str, Estimate]:
    """The change of each metric between two models on the same samples, paired.

    That of a share has the interval of `share_change`, another Student's of the differences. A
    sample that only one of the models has a value of has no part in it.

    Raises:
        UserError: the samples are not the same.
    """
    ours, theirs = (
        [(sample.run.harness, sample.task, sample.sample, sample.content) for sample in samples]
        for samples in (after, before)
    )
    if ours != theirs:
        raise UserError(
            f"{after[0].run.model} and {before[0].run.model} were not given the same samples. Give "
            "another --out to have both run again."
        )
    changes = {}
    for name, metric in _named(before).items():
        pairs = [tuple(map(metric.of, pair)) for pair in zip(after, before, strict=True)]
        if complete_pairs := [pair for pair in pairs if None not in pair]:
            now, start = np.array(complete_pairs, dtype=float).T
            has_flags = _are_flags(now) and _are_flags(start)
            changes[name] = (
                share_change(now, start, f"share of {name}")
                if has_flags
                else student_mean(now - start, name)
            )
    return changes


@dataclass(frozen=True)
class _Metric:
    harness: str
    task: str
    name: str

    def of(self, sample: HarnessSample) -> float | None:
        is_of_task = (sample.run.harness, sample.task) == (self.harness, self.task)
        return sample.metrics.get(self.name) if is_of_task else None


def _named(samples: Sequence[HarnessSample]) -> dict[str, _Metric]:
    """Metrics by what tells them apart, in order."""
    distinct_metrics = dict.fromkeys(
        _Metric(sample.run.harness, sample.task, name)
        for sample in samples
        for name in sample.metrics
    )
    titles = Counter(f"{_title(metric.task)} {metric.name}" for metric in distinct_metrics)
    named = {}
    for metric in distinct_metrics:
        title = f"{_title(metric.task)} {metric.name}"
        named[title if titles[title] == 1 else f"{metric.harness} {metric.task} {metric.name}"] = (
            metric
        )
    return named


def _title(task: str) -> str:
    """A task's name, where it is given by its file.

    >>> _title("tasks/own.py@words"), _title("tasks/own.yaml"), _title("inspect_evals/gsm8k")
    ('words', 'own', 'inspect_evals/gsm8k')
    """
    file, _, name = task.partition("@")
    return name or (Path(file).stem if Path(file).suffix in (".py", ".yaml", ".yml") else task)


def _are_flags(values: Array) -> bool:
    return bool(np.isin(values, (0.0, 1.0)).all())
