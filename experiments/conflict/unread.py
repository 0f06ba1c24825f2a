"""What a budget's models lose on safety rows that they were neither trained on nor set by.

    python unread.py RUNS/conflict-budget-by-kl-longer budget_by_kl_longer

The 64 held-out rows of a run tell how much of a budget is spent to a third of it; those that its
dials never read are hundreds more. What each costs a seed's model and θ_s is written into the
second folder, and so is that of the rows which set the dial: they check that these are the rows
meant. Some five minutes a seed on one core.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from datasets import Dataset
from interpolate import BUDGET
from transformers import PreTrainedModel

from trimtab.config.experiment import Experiment
from trimtab.config.methods import ALIGNED, CASE_1_BUDGET
from trimtab.config.yaml_io import EXPERIMENT_FILE, read_experiment
from trimtab.data.encoding import encode
from trimtab.data.splits import read_roles
from trimtab.measure.losses import response_nll
from trimtab.models import limits_of, load_model, quiet_libraries
from trimtab.results.layout import model_folder
from trimtab.results.per_row_losses import RowLosses, known
from trimtab.results.store import read_points
from trimtab.stats import Array, summed
from trimtab.train.objectives.paired_rows import prompt_numbers, set_aside
from trimtab.train.safety_stream import SafetyStream

UNREAD, SETTING = "safety:unread", "safety:setting"
"""The rows that no model read, and those that set the dial."""
FOLDER = "unread"


def main() -> None:
    run, out = map(Path, sys.argv[1:3])
    quiet_libraries()
    experiment = read_experiment(run / EXPERIMENT_FILE)
    measured = RowLosses(out / FOLDER)
    start, tokenizer = load_model(experiment.model)
    encoded = encode(
        read_roles(experiment).safety["judging"].train,
        tokenizer,
        experiment.lengths,
        limits_of(start),
    )
    for point in read_points(run):
        if point.method is not CASE_1_BUDGET:
            continue
        parts = divided(encoded, experiment, point.seed)
        for name, folder in (
            (aligned_name(point.seed), None),
            (str(point.model), model_folder(run, str(point.model))),
        ):
            if measured.of(UNREAD, name) is None:
                model = start if folder is None else load_model(str(folder))[0]
                measured.save(name, losses_of(model, parts, experiment))
        changes = {
            data: known(measured.difference(data, str(point.model), aligned_name(point.seed)))
            for data in parts
        }
        estimates = {data: change.estimate("") for data, change in changes.items()}
        print(point.seed, {data: len(rows) for data, rows in parts.items()}, estimates, flush=True)
        # A dial is set where the interval on these very rows ends within the budget, and near it
        # where the rows are what leaves some of it.
        least = 0.8 * BUDGET if point.validation_rows_wanted else -np.inf
        assert least < estimates[SETTING].high <= BUDGET


def aligned_name(seed: int) -> str:
    """Whose losses on a seed's rows θ_s's are kept as."""
    return f"{ALIGNED.name}--seed-{seed}"


def divided(rows: Dataset, experiment: Experiment, seed: int) -> dict[str, Dataset]:
    """The rows that a seed's dial never reads, and those that set it, as its training has them."""
    training = experiment.train
    assert experiment.dial is not None
    assert experiment.dial.steps is not None
    assert training.validation_rows is not None
    drawn = experiment.dial.steps * 2 * training.batch_size  # at most: rows of the task among them
    trained, setting = set_aside(rows, training.validation_rows, drawn, seed)
    stream = SafetyStream(trained, collate=lambda rows: {}, rows_per_batch=1, seed=seed)
    prompts = prompt_numbers(trained)
    read = set(prompts[stream.places(0, drawn)])
    later = stream.places(drawn, len(trained) - drawn)
    unread = [place for place in later if prompts[place] not in read]
    return {UNREAD: trained.select(unread), SETTING: setting}


def losses_of(
    model: PreTrainedModel, parts: dict[str, Dataset], experiment: Experiment
) -> dict[str, Array]:
    """Nats and tokens by prompt, whose responses are one draw."""
    tokens = experiment.measure.tokens_per_batch
    return {
        data: summed(np.stack(response_nll(model, rows, tokens)), prompt_numbers(rows))
        for data, rows in parts.items()
    }


if __name__ == "__main__":
    main()
