"""Before any training: which proxy is nearer to the original safety data, which task overlaps it?

Compares rows by their words, and prints what `trimtab audit` prints. Half a minute of
CPU time.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import mkdtemp

from trimtab.data.synthetic import CONTEXTS, RESPONSES, make_world, write_data
from trimtab.models import save_tiny_llama


def main(rows: int = 400) -> None:
    folder = Path(mkdtemp())
    world = make_world({"near": 0.1, "far": 0.6}, {"separate": 0.0, "mixed": 0.5})
    write_data(world, folder, rows=rows)
    save_tiny_llama([*CONTEXTS, *RESPONSES], folder / "base", seed=0)
    options = {
        "--model": ["base"],
        "--original": ["data/original.jsonl"],
        "--safety": ["near=data/safety-near.jsonl", "far=data/safety-far.jsonl"],
        "--task": ["separate=data/task-separate.jsonl", "mixed=data/task-mixed.jsonl"],
        "--landscape": ["none"],
        "--embedding": ["words"],
        "--out": ["audit"],
    }
    arguments = [
        part for name, values in options.items() for value in values for part in (name, value)
    ]
    arguments.append("--repeats")  # the world's rows are draws from few prompts
    subprocess.run([sys.executable, "-m", "trimtab", "audit", *arguments], cwd=folder, check=True)
    print(f"The page: {folder / 'audit/audit.html'}")


if __name__ == "__main__":
    main()
