"""What it did to this folder's losses that its trained models were measured in bfloat16.

    cd RUNS && python REPOSITORY/experiments/methods/precision.py methods-own

The models here were trained in bfloat16 and, as trimtab then had it, measured in it too, while θ_s
and what was interpolated were measured in float32. The kept models of own_answers.yaml are measured
in float32 again, and θ_s in both; precision.json has how far the losses lie apart, paired by row.
Without an argument, its table is written into README.md.
"""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trimtab.analysis.labels import change_in_words
from trimtab.config.data_names import ORIGINAL, task_data
from trimtab.config.methods import ALIGNED
from trimtab.config.yaml_io import recorded_experiment
from trimtab.data.splits import read_roles
from trimtab.measure.losses import PER_TOKEN, response_nll
from trimtab.models import load_model, quiet_libraries
from trimtab.report.markdown import markdown_table, replace_between
from trimtab.results.files import write_atomically
from trimtab.results.layout import model_folder
from trimtab.results.per_row_losses import RowLosses
from trimtab.results.store import read_points
from trimtab.runner.evaluator import EncodedRoles
from trimtab.runner.saved_models import adapter_on
from trimtab.stats import Array, Estimate, paired_difference, statistic_over_seeds

HERE = Path(__file__).parent
FILE = HERE / "precision.json"
DATA = (ORIGINAL, task_data("alpaca"))


def main() -> None:
    if len(sys.argv) > 1:
        measure(Path(sys.argv[1]))
    replace_between(HERE / "README.md", "precision", table())
    print(table())


def measure(folder: Path) -> None:
    """Every model's losses by row, in bfloat16 and in float32, written model by model."""
    quiet_libraries()
    experiment = recorded_experiment(folder)
    start, tokenizer = load_model(experiment.model)
    encoded = EncodedRoles.of(read_roles(experiment), tokenizer, experiment.lengths)

    def losses(model: Any, data: str, *, in_training: bool = False) -> Array:
        rows, tokens = encoded.held_out(data).rows, experiment.measure.tokens_per_batch
        with torch.autocast("cpu", torch.bfloat16) if in_training else nullcontext():
            return np.stack(response_nll(model, rows, tokens))

    recorded = RowLosses(folder)
    known: dict[str, Any] = json.loads(FILE.read_bytes()) if FILE.exists() else {}
    for name in dict.fromkeys(str(point.model) for point in read_points(folder)):
        if name in known:
            continue
        known[name] = {}
        model: Any = start
        if name != ALIGNED.name:
            model = adapter_on(start, experiment.model, model_folder(folder, name))
        for data in DATA:
            in_16_bits = recorded.of(data, name)
            if name == ALIGNED.name:
                in_16_bits = losses(model, data, in_training=True)
            assert in_16_bits is not None
            known[name][data] = [in_16_bits.tolist(), losses(model, data).tolist()]
        write_atomically(FILE, json.dumps(known) + "\n")


def table() -> str:
    """How far each loss in bfloat16 lies above the same in float32."""
    cells = []
    for name, by_data in json.loads(FILE.read_bytes()).items():
        differences = [difference(*map(np.array, by_data[data])) for data in DATA]
        cells.append((name, *(change_in_words(each, 4) for each in differences)))
    return markdown_table(("model", "L_s in bfloat16 less in float32", "L_f"), cells)


def difference(in_16_bits: Array, in_32_bits: Array) -> Estimate:
    return statistic_over_seeds([paired_difference(in_16_bits, in_32_bits)], PER_TOKEN)


if __name__ == "__main__":
    main()
