"""Plain fine-tuning brought back to a budget: WiSE-FT by the rule that sets a dial to it.

    python experiments/conflict/interpolate.py RUNS/conflict RUNS/conflict-interpolated

For each seed, the model between θ_s and the plain one of the conflict's sweep is chosen on as
many rows of safety data as budget.yaml has for validation, none of them held out. What each
held-out row of the sweep costs it is written here. Some ten minutes a model on one core; where the
model is there, it is only measured.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from datasets import Dataset

from trimtab.config.data_names import by_data_name
from trimtab.config.data_source import DataSource
from trimtab.config.yaml_io import EXPERIMENT_FILE, read_experiment
from trimtab.data.encoding import encode
from trimtab.data.rows import Row
from trimtab.data.splits import read_roles
from trimtab.measure.losses import response_nll
from trimtab.models import limits_of, load_model, quiet_libraries
from trimtab.results.files import write_json_lines
from trimtab.results.layout import ALIGNED_FOLDER, model_folder
from trimtab.results.per_row_losses import RowLosses
from trimtab.results.store import read_points
from trimtab.runner.post_hoc import interpolate_to_budget
from trimtab.train.safety_stream import SafetyStream

BUDGET = 0.03
"""Nats per token, as in budget.yaml."""
VALIDATION_ROWS = 128
"""That choose; as many more are read, on which the function tells what it chose."""


def main() -> None:
    run, out = map(Path, sys.argv[1:3])
    quiet_libraries()
    experiment = read_experiment(run / EXPERIMENT_FILE)
    roles = read_roles(experiment)
    held_out = {
        name: split.held_out
        for name, split in by_data_name(roles.original, roles.safety, roles.task).items()
    }
    out.mkdir(parents=True, exist_ok=True)
    for point in (point for point in read_points(run) if point.spec.is_plain):
        name = str(point.model)
        model = out / name
        if not model.exists():
            choosing = choosing_rows(roles.safety["judging"].train, point.seed)
            file = out.resolve() / f"choosing-{point.seed}.jsonl"
            write_json_lines(file, map(as_record, choosing))
            aligned, tuned = str(run / ALIGNED_FOLDER), model_folder(run, name)
            source = DataSource(str(file))
            interpolation = interpolate_to_budget(
                tuned, aligned, model, BUDGET, source, experiment.lengths
            )
            print(f"{name}: a share of {interpolation.share:.3f} of θ_s", flush=True)
        loaded, tokenizer = load_model(str(model))
        losses = {}
        for data, rows in held_out.items():
            encoded = encode(rows, tokenizer, experiment.lengths, limits_of(loaded))
            tokens = experiment.measure.tokens_per_batch
            losses[data] = np.stack(response_nll(loaded, encoded, tokens))
        RowLosses(Path(__file__).parent / "interpolated").save(name, losses)


def choosing_rows(rows: tuple[Row, ...], seed: int) -> list[Row]:
    """Safety rows that come too late in a seed's stream for any of its models to have read them."""
    stream = SafetyStream(
        Dataset.from_dict({"row": range(len(rows))}),
        collate=lambda rows: {},
        rows_per_batch=1,
        seed=seed,
    )
    return [rows[place] for place in stream.places(len(rows) // 2, 2 * VALIDATION_ROWS)]


def as_record(row: Row) -> dict[str, object]:
    """A row as a file of prompts and responses has it."""
    (prompt,) = row.prompt
    return {"prompt": prompt.content, "response": row.response}


if __name__ == "__main__":
    main()
