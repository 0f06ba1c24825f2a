"""What data sets and answers are called in results: "original", "safety:NAME", "answers:RATE"."""

from __future__ import annotations

from collections.abc import Container, Mapping
from itertools import count
from typing import TypeVar

Held = TypeVar("Held")

ORIGINAL = "original"


def safety_data(name: str | None) -> str:
    """The name of a safety data set."""
    return f"safety:{name}"


def task_data(name: str) -> str:
    """The name of a task's data set."""
    return f"task:{name}"


def answers_data(rate: str, judge: str | None = None) -> str:
    """The name of the prompts that a rate counts, as a judge has it; the first where not given."""
    return f"answers:{rate}" + (f"@{judge}" if judge else "")


def free_name(name: str, taken: Container[str]) -> str:
    """The name, numbered from 2 where others have it.

    >>> free_name("code", {}), free_name("code", {"code", "code-2"})
    ('code', 'code-3')
    """
    numbered = (f"{name}-{number}" for number in count(2))
    return name if name not in taken else next(free for free in numbered if free not in taken)


def by_data_name(
    original: Held | None, safety: Mapping[str, Held], task: Mapping[str, Held]
) -> dict[str, Held]:
    """What is held for each data set, by its name.

    >>> by_data_name(None, {"refusals": 1}, {"code": 2})
    {'safety:refusals': 1, 'task:code': 2}
    """
    return {
        **({ORIGINAL: original} if original is not None else {}),
        **{safety_data(name): value for name, value in safety.items()},
        **{task_data(name): value for name, value in task.items()},
    }
