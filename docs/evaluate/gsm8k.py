"""GSM8K as a task of Inspect, beside the rows that tasks.py wrote."""

from __future__ import annotations

from pathlib import Path

from inspect_ai import Task, task
from inspect_ai.dataset import Sample, json_dataset
from inspect_ai.model import GenerateConfig
from inspect_ai.scorer import match
from inspect_ai.solver import generate

ROWS = Path(__file__).parent / "gsm8k_local-test.jsonl"


@task
def gsm8k() -> Task:
    """Problems whose answer ends in the right number."""

    def sample(row: dict[str, str]) -> Sample:
        return Sample(input=row["question"], target=row["answer"].split("####")[1].strip())

    return Task(
        dataset=json_dataset(str(ROWS), sample),
        solver=generate(),
        scorer=match(numeric=True),
        config=GenerateConfig(max_tokens=96),
    )
