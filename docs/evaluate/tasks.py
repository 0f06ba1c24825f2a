"""Write tasks of lm-eval from local rows: GSM8K, and a choice among answers to code prompts.

python docs/evaluate/tasks.py DATA tasks

DATA holds gsm8k-train.jsonl.gz, gsm8k-test.jsonl.gz and code-alpaca.jsonl.gz, each row with a
prompt and a response. `code_choice` asks which of four answers is that to the prompt; the others
are the answers to the three prompts after it. GSM8K is lm-eval's own task with its data from
here, no examples before a question and 96 tokens for an answer, so that a CPU can run it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from trimtab.config.data_source import DataSource
from trimtab.data.files import read_records

CHOICES = 4
ROWS = 200
LONGEST = 160
"""Of prompts and answers, in characters: likelihoods of long answers take long."""


def code_choice(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Prompts, each with its answer among those to others, at each place in turn."""
    short = [
        (record["prompt"], record["response"])
        for record in records
        if max(len(record["prompt"]), len(record["response"])) <= LONGEST
    ][:ROWS]
    rows = []
    for place, (prompt, _) in enumerate(short):
        answers = [short[(place + step) % len(short)][1] for step in range(CHOICES)]
        right = place % CHOICES
        choices = [answers[(turn - right) % CHOICES] for turn in range(CHOICES)]
        rows.append({"question": prompt, "choices": choices, "answer": right})
    return rows


def write_task(folder: Path, name: str, splits: dict[str, list[Any]], **settings: Any) -> None:
    """A task's rows, and the YAML file that lm-eval finds it by."""
    files = {}
    for split, rows in splits.items():
        path = folder.resolve() / f"{name}-{split}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        files[split] = str(path)
    task = {"task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": files}}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump({**task, **settings}))


def main(data: Path, out: Path) -> None:
    """Write both tasks."""
    out.mkdir(parents=True, exist_ok=True)

    def records(name: str) -> Iterable[dict[str, Any]]:
        return read_records(DataSource(str(data / f"{name}.jsonl.gz")))

    write_task(
        out,
        "code_choice",
        {"test": code_choice(records("code-alpaca"))},
        test_split="test",
        output_type="multiple_choice",
        doc_to_text="{{question}}\n\n",
        doc_to_target="answer",
        doc_to_choice="choices",
        target_delimiter="",
        metric_list=[
            {"metric": name, "aggregation": "mean", "higher_is_better": True}
            for name in ("acc", "acc_norm")
        ],
    )
    spec = find_spec("lm_eval")
    if spec is None or spec.origin is None:
        sys.exit("lm-eval is not installed: pip install lm_eval")
    splits = {
        split: [
            {"question": record["prompt"], "answer": record["response"]}
            for record in islice(records(f"gsm8k-{split}"), ROWS)
        ]
        for split in ("train", "test")
    }
    own = Path(spec.origin).parent / "tasks" / "gsm8k" / "gsm8k.yaml"
    write_task(
        out,
        "gsm8k_local",
        splits,
        include=str(own),
        dataset_name=None,
        num_fewshot=0,
        generation_kwargs={"until": ["Question:"], "do_sample": False, "max_gen_toks": 96},
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
