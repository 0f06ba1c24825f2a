"""Killed, or on a full disk, at any file operation, a command goes on to the very same results."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.killed_anywhere import Command, Fault, commands, walk

SPREAD: dict[tuple[str, Fault], int] = {
    ("sweep", "kill"): 5,
    ("dial train", "kill"): 3,
    ("proxy", "kill"): 2,
    ("sweep", "full disk"): 1,
    ("proxy", "full disk"): 1,
}


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Command], Path]:
    work = tmp_path_factory.mktemp("work")
    return commands(work), work


@pytest.mark.parametrize(("name", "fault"), SPREAD)
def test_disturbed_anywhere_a_command_goes_on_to_the_same(
    name: str, fault: Fault, every: tuple[dict[str, Command], Path]
) -> None:
    by_name, work = every
    verdicts = walk(by_name[name], work, fault, most=SPREAD[name, fault])
    assert verdicts == {"bitwise the same": SPREAD[name, fault]}
