"""A first experiment's file, with comments, from a model and files of data."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import yaml

from trimtab.config.data_names import free_name
from trimtab.config.experiment import Training

LORA_RANK = 16
PENALTIES = (0, 0.1, 1, 10)
BUDGETS = (0.05, 0.1)
SETTINGS = (0, 0.25, 0.5, 0.75, 1)
"""Of a dial."""


def experiment_text(
    model: str,
    task: Sequence[str],
    safety: Sequence[str],
    original: str | None = None,
    data_root: str = ".",
) -> str:
    """The text of an experiment's file that `read_experiment` reads.

    Args:
        task: what to fine-tune on, a file or a Hub id each; named by the file's stem.
        safety: proxy safety data, as `task`.
        original: the model's own alignment data.
        data_root: the folder that relative paths start at, itself relative to the file.
    """
    return "\n".join(_lines(model, task, safety, original, data_root)) + "\n"


def _lines(
    model: str, task: Sequence[str], safety: Sequence[str], original: str | None, data_root: str
) -> Iterator[str]:
    yield "# An experiment of trimtab. Every setting is described in docs and in"
    yield "# trimtab/config/experiment.py; what is left out here has the default said there."
    yield f"model: {_yaml(model)}  # smollm2, a folder, a .gguf file, or a Hub id"
    if data_root != ".":
        yield f"data_root: {_yaml(data_root)}  # where the paths below start, seen from this file"
    yield ""
    yield "# What to fine-tune on, by name."
    yield from _sources("task", _paths_by_name(task))
    yield ""
    yield "# Safety data: prompts with the responses a safe model gives. It stands in for the"
    yield "# data the model was aligned on, so several can be compared."
    yield from _sources("safety", _paths_by_name(safety))
    yield ""
    if original is None:
        yield "# The model's own alignment data, to measure on, where it is at hand:"
        yield "# original: original.jsonl"
    else:
        yield "# The model's own alignment data, to measure on."
        yield f"original: {_yaml(original)}"
    yield ""
    yield "train:"
    yield f"  steps: {Training.steps}  # or epochs: 1"
    yield f"  batch_size: {Training.batch_size}"
    yield f"  learning_rate: {_yaml(Training.learning_rate)}"
    yield f"  lora_rank: {LORA_RANK}  # leave out to train all weights"
    yield "  # Ask safety prompts for the start's own answers in place of those in the file:"
    yield "  # safety_target: kl"
    yield ""
    yield "# One model for every value below, each with every task and every safety set."
    yield "grid:"
    yield "  # Case I, task loss + penalty × safety loss; 0 is plain fine-tuning."
    yield f"  - {{case: alignment-loss, penalties: {_yaml(list(PENALTIES))}}}"
    yield "  # Or say what the safety loss may rise by, in nats per token:"
    yield f"  # - {{case: alignment-loss, budgets: {_yaml(list(BUDGETS))}}}"
    yield "  # Or train once, and choose between the safest, 0, and the most capable, 1:"
    yield f"  # - {{case: dial, values: {_yaml(list(SETTINGS))}}}"
    yield "  # Or keep the weights within a distance of the start (Case II):"
    yield "  # - {case: alignment-parameter, radii: [0.5, 1, 2]}"
    yield "# dial: {}  # where the grid has one: how it is trained"
    yield ""
    yield "seeds: [0]  # findings need at least two: [0, 1]"


def _sources(role: str, paths: Mapping[str, str]) -> Iterator[str]:
    yield f"{role}:"
    for name, path in paths.items():
        yield f"  {_yaml(name)}: {_yaml(path)}"


def _paths_by_name(paths: Sequence[str]) -> dict[str, str]:
    """The paths by the stems of their files, numbered where two are alike.

    >>> _paths_by_name(["a/code.jsonl.gz", "b/code.csv", "org/set"])
    {'code': 'a/code.jsonl.gz', 'code-2': 'b/code.csv', 'set': 'org/set'}
    """
    paths_by_name: dict[str, str] = {}
    for path in paths:
        stem = re.sub(r"\.(jsonl|json|csv|parquet)(\.gz)?$", "", PurePath(path).name) or "data"
        paths_by_name[free_name(stem, paths_by_name)] = path
    return paths_by_name


def _yaml(value: Any) -> str:
    """A value as it stands on a line of YAML."""
    listed = yaml.safe_dump([value], default_flow_style=True, allow_unicode=True, width=10**9)
    return listed.strip()[1:-1]
