"""Safe answers to unsafe prompts and ordinary answers to others, mixed half and half.

    python experiments/conflict/data.py DATA OUT

A model aligned on refusals alone refuses everything; here it has to judge. OUT gets original.jsonl
(GPT-4's answers, to align on) and judging.jsonl (ChatGPT's and a later GPT-4's, as safety data).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.config.data_source import DataSource
from trimtab.data.files import read_records
from trimtab.results.files import write_json_lines

MIXED = {
    "original.jsonl": ("do-not-answer-gpt4.jsonl.gz", "alpaca-gpt4-demo.jsonl.gz"),
    "judging.jsonl": ("do-not-answer-chatgpt.jsonl.gz", "instructions-gpt4_0613.jsonl.gz"),
}
SEED = 0


def main() -> None:
    data, out = Path(sys.argv[1]), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    for name, (unsafe, ordinary) in MIXED.items():
        refused = [row for row in rows_of(data / unsafe) if not row["harmful"]]
        answered = rows_of(data / ordinary)
        count = min(len(refused), len(answered))
        random = np.random.default_rng(SEED)
        chosen = [random.permutation(len(rows))[:count] for rows in (refused, answered)]
        mixed = [
            {"prompt": row["prompt"], "response": row["response"], "kind": kind}
            for refusal, answer in zip(*chosen, strict=True)
            for kind, row in (("unsafe", refused[refusal]), ("ordinary", answered[answer]))
        ]
        write_json_lines(out / name, mixed)
        print(f"{out / name}: {count} rows of each kind")


def rows_of(file: Path) -> list[dict[str, Any]]:
    return read_records(DataSource(str(file)))


if __name__ == "__main__":
    main()
