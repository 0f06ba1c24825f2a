"""Facts about what a command says of its own options."""

from __future__ import annotations

from typer.testing import CliRunner

from trimtab.cli import app


def test_of_options_alike_the_nearest_is_named() -> None:
    result = CliRunner().invoke(app, ["train", "--taks", "task.jsonl"])
    assert result.exit_code == 2
    assert "No such option: --taks. Did you mean --task?" in result.output
    assert "--case" not in result.output
