"""Facts about what a command says of its own options."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from trimtab.cli import app


def test_of_options_alike_the_nearest_is_named() -> None:
    result = CliRunner().invoke(app, ["train", "--taks", "task.jsonl"])
    assert result.exit_code == 2
    assert "No such option: --taks. Did you mean --task?" in result.output
    assert "--case" not in result.output


@pytest.mark.parametrize("command", [["train"], ["dial", "train"]])
def test_a_trainings_options_are_shown_by_what_they_are_about(command: list[str]) -> None:
    help_result = CliRunner().invoke(app, [*command, "--help"])
    assert help_result.exit_code == 0
    panels: dict[str, list[str]] = {}
    for line in help_result.output.splitlines():
        if line.endswith(":") and not line.startswith(" "):
            options = panels.setdefault(line[:-1], [])
        elif line.startswith("  --"):
            options.append(line.split()[0].removeprefix("--"))
    named = ["Data", "Safety constraint", "Training", "Memory and speed", "Measuring"]
    assert [panel for panel in panels if panel in named] == named
    for panel, option in {
        "Options": "model",
        "Data": "safety-where",
        "Safety constraint": "safety-share",
        "Training": "learning-rate",
        "Memory and speed": "quantization",
        "Measuring": "measure-every",
        "Answers and judges": "judge",
    }.items():
        assert option in panels[panel]
    assert max(map(len, panels.values())) <= 14
