"""Does leaving out the rows that an audit calls endangering keep safety, more than random rows do?

In finite worlds whose alignment gap is known exactly: 8 worlds, a task half of whose prompts are
safety prompts, plain fine-tuning and Case I at λ = 0.3, on all rows, without the worst tenth or
fifth by endangering rate, and without as many random rows.

    python docs/audit/dropping.py   # about ten minutes on two cores; stop and go on
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from worlds import ALIGN, LENGTHS, ROWS, TRAIN, Silent

from trimtab.data.encoding import encode
from trimtab.data.reading import read_rows
from trimtab.data.rows import Row
from trimtab.data.synthetic import CONTEXTS, RESPONSES, make_world, write_data
from trimtab.experiment import Block, Experiment, Measuring
from trimtab.measure.endangering import endangering_rows
from trimtab.measure.token_loss import TokenLoss, all_weights, length, scaled
from trimtab.models import load_model, quiet_libraries, save_tiny_llama
from trimtab.sweep import sweep

HERE = Path(__file__).parent
RECORDS, SUMMARY = HERE / "dropping.jsonl", HERE / "dropping.json"
WORLDS = 8
SHARES = (0.1, 0.2)
PENALTIES = (0.0, 0.3)
TRIAL = 0.5
LANDSCAPE_ROWS = 256


def main() -> None:
    quiet_libraries()
    lines = RECORDS.read_text().splitlines() if RECORDS.exists() else []
    for number in range(len(lines), WORLDS):
        with RECORDS.open("a") as file:
            file.write(json.dumps(one_world(number)) + "\n")
    records = [json.loads(line) for line in RECORDS.read_text().splitlines()]
    SUMMARY.write_text(json.dumps(summary(records), indent=1) + "\n")
    print(SUMMARY.read_text())


def one_world(number: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        world = make_world({"near": 0.1}, {"task": 0.5}, 100 + number)
        original, safety, task = write_data(world, folder, ROWS, number)
        save_tiny_llama([*CONTEXTS, *RESPONSES], folder / "base", number)
        rows = read_rows(task["task"], folder)
        plan = Experiment(
            model=str(folder / "base"),
            original=original,
            safety=safety,
            task=task,
            align=ALIGN,
            train=TRAIN,
            grid=(Block("alignment-loss", PENALTIES),),
            seeds=(number,),
            measure=Measuring(tokens_per_batch=16_384),
            data_root=str(folder),
        )
        found = {"all rows": gaps(plan, folder / "all")}
        model, tokenizer = load_model(str(folder / "all" / "aligned"))
        encoded = encode(rows, tokenizer, LENGTHS)
        with all_weights(model) as (_, weights):
            near = encode(read_rows(safety["near"], folder)[:LANDSCAPE_ROWS], tokenizer, LENGTHS)
            loss = TokenLoss.over(model, weights, near, 16_384)
            some = TokenLoss.over(model, weights, encoded.select(range(LANDSCAPE_ROWS)), 16_384)
            gradient = some.gradient()
            downhill = scaled(gradient, -1 / length(gradient))
            rates = endangering_rows(model, loss, encoded, downhill, TRIAL, 16_384)
        after = replace(plan, model=str(folder / "all" / "aligned"), align=None)
        random = np.random.default_rng(number).permutation(len(rows))
        for share in SHARES:
            count = round(share * len(rows))
            for name, dropped in (("worst", rates.worst(share)), ("random", random[:count])):
                kept = [row for place, row in enumerate(rows) if place not in set(dropped.tolist())]
                path = f"data/{name}-{share}.jsonl"
                _write(folder / path, kept)
                source = replace(task["task"], path=path)
                label = f"without the {name} {share:.0%}"
                found[label] = gaps(replace(after, task={"task": source}), folder / label)
    return found


def gaps(plan: Experiment, folder: Path) -> dict[str, dict[str, float]]:
    points = [point for point in sweep(plan, folder, Silent()) if point.case != "aligned"]
    return {
        f"λ = {point.penalty:g}": {
            "alignment_gap": point.alignment_gap.value,
            "capability_gap": point.capability_gap.value,
        }
        for point in points
    }


def summary(records: list[dict[str, Any]]) -> dict[str, Any]:
    told: dict[str, Any] = {"worlds": len(records)}
    for penalty in records[0]["all rows"]:
        told[penalty] = {}
        for label in records[0]:
            values = {
                kind: np.array([record[label][penalty][kind] for record in records])
                for kind in ("alignment_gap", "capability_gap")
            }
            told[penalty][label] = {kind: float(value.mean()) for kind, value in values.items()}
        for share in SHARES:
            better = np.array(
                [
                    record[f"without the random {share:.0%}"][penalty]["alignment_gap"]
                    - record[f"without the worst {share:.0%}"][penalty]["alignment_gap"]
                    for record in records
                ]
            )
            means = np.random.default_rng(0).choice(better, (2000, len(better))).mean(axis=1)
            told[penalty][f"worst below random, {share:.0%}"] = {
                "mean": float(better.mean()),
                "interval": np.quantile(means, [0.025, 0.975]).tolist(),
                "worlds": int((better > 0).sum()),
            }
    return told


def _write(path: Path, rows: list[Row]) -> None:
    records = [{"prompt": row.prompt[0].content, "response": row.response} for row in rows]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


if __name__ == "__main__":
    main()
