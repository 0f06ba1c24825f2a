"""Facts about what commands print into a pipe, which has no width of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

RESULTS = Path(__file__).parents[2] / "docs" / "reproduction" / "smollm2"
NAME = "gpt4-0613"
LONG = "answers-of-a-later-gpt4-to-the-prompts-of-alpacaeval-of-june-2023"


def test_a_table_in_a_pipe_breaks_no_name(tmp_path: Path) -> None:
    for file in ("points.jsonl", "experiment.yaml"):
        text = (RESULTS / file).read_text(encoding="utf-8").replace(NAME, LONG)
        (tmp_path / file).write_text(text, encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    printed = subprocess.run(
        [sys.executable, "-m", "trimtab.cli", "bounds", str(tmp_path)],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert printed.returncode == 0, printed.stderr
    assert f"λ = 0.1, {LONG}, alpaca" in printed.stdout
