"""The landscape at the aligned model, and the task rows that endanger safety there."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from torch import nn

from trimtab.audit.datasets import Audited, AuditedData, text_of
from trimtab.audit.features import FeatureExtractor
from trimtab.audit.forecast import Suggestion, along_the_walk, suggested_radius
from trimtab.audit.result import (
    EndangeringRow,
    LandscapeResult,
    ProfileRecord,
    Radii,
    SuggestedRadius,
    TaskGeometry,
    TaskInfluence,
    part,
)
from trimtab.audit.stage_cache import StageCache
from trimtab.config.audit_settings import AuditSettings
from trimtab.data.rows import Row, are_chats
from trimtab.data.splits import choose_rows
from trimtab.measure.geometry import Landscape, curvature, landscape
from trimtab.measure.influence import Influence, endangering_rows
from trimtab.measure.overlap import context_overlap
from trimtab.measure.similarity import TooFewPromptsError
from trimtab.measure.token_loss import TokenLoss, all_weights, low_rank_subspace
from trimtab.results.files import write_atomically
from trimtab.stats import Estimate
from trimtab.watching import Watcher

_SHOWN = 10
_SURPRISING = 0.9


def landscape_and_rows(
    data: AuditedData,
    reference: Audited,
    extractor: FeatureExtractor,
    stages: StageCache,
    folder: Path | None,
    watcher: Watcher,
) -> tuple[LandscapeResult, tuple[TaskInfluence, ...]] | tuple[None, None]:
    """The landscape, and the influence of every task's rows; None where no landscape is wanted.

    Also writes, for every task, its rows without the worst into `folder`.
    """
    settings = extractor.settings
    if settings.landscape == "none":
        return None, None

    def measured_landscape() -> dict[str, Any]:
        with _space(extractor, settings) as (model, weights):

            def loss(dataset: Audited) -> TokenLoss:
                rows = choose_rows(dataset.chosen, settings.landscape_rows, settings.seed)
                encoded = extractor.encoded(rows, dataset.label)
                return TokenLoss.over(model, weights, encoded, settings.tokens_per_batch)

            def curvature_of(name: str, loss: TokenLoss) -> Estimate:
                what = f"curvature of {name}"

                def fresh_estimate() -> dict[str, Any]:
                    watcher.doing(what)
                    return asdict(curvature(loss, watcher.stepped))

                # A task may be called what the safety loss is.
                stage = what if loss is safety else f"curvature of {name!r}"
                return part(Estimate, stages.result(stage, fresh_estimate))

            safety = loss(reference)
            local_landscape = landscape(
                safety,
                {name: loss(dataset) for name, dataset in data.task.items()},
                seed=settings.seed,
                progress=watcher.doing,
                curvature_of=curvature_of,
            )
            rates = {
                name: _rates(
                    model, safety, local_landscape, name, dataset, extractor, watcher.doing
                )
                for name, dataset in data.task.items()
            }
        return {
            "landscape": asdict(_landscape_result(local_landscape, settings, data)),
            "rates": {
                name: task_influence.rates.tolist() for name, task_influence in rates.items()
            },
            "trials": {name: task_influence.trial for name, task_influence in rates.items()},
        }

    record = stages.result("landscape", measured_landscape)
    influence: list[TaskInfluence] = []
    for name, dataset in data.task.items():
        rates = Influence(np.array(record["rates"][name]), record["trials"][name])
        influence.append(_endangering(name, dataset, rates, data, extractor, folder))
    return part(LandscapeResult, record["landscape"]), tuple(influence)


@contextmanager
def _space(extractor: FeatureExtractor, settings: AuditSettings) -> Iterator[tuple[nn.Module, Any]]:
    if settings.landscape == "full":
        with all_weights(extractor.model) as space:
            yield space
    else:
        with low_rank_subspace(extractor.model, settings.landscape_rank, settings.seed) as space:
            yield space


def _rates(
    model: nn.Module,
    safety: TokenLoss,
    local_landscape: Landscape,
    name: str,
    task: Audited,
    extractor: FeatureExtractor,
    progress: Callable[[str], None],
) -> Influence:
    walk = local_landscape.loss_profile_down(name)
    # As far as the budget: there the safety loss has a slope that the walk itself has shown.
    trial = min(walk.reaches(extractor.settings.budget), walk.distances[-1])
    rows: Dataset = extractor.encoded(task.chosen, task.label)
    downhill = local_landscape.tasks[name].downhill
    return endangering_rows(
        model, safety, rows, downhill, trial, extractor.settings.tokens_per_batch, progress
    )


def _landscape_result(
    local_landscape: Landscape, settings: AuditSettings, data: AuditedData
) -> LandscapeResult:
    space = (
        "all weights"
        if settings.landscape == "full"
        else f"LoRA's start, rank {settings.landscape_rank}, on every linear layer"
    )
    tasks = {}
    for name in data.task:
        side = local_landscape.tasks[name]
        local, walked = suggested_radius(settings.budget, local_landscape, name)
        tasks[name] = TaskGeometry(
            side.loss,
            side.slope,
            side.curvature,
            side.cosine,
            along_the_walk(local_landscape, name),
            Radii(_finite_radius(local), _finite_radius(walked)),
        )
    return LandscapeResult(
        space,
        local_landscape.weights,
        local_landscape.rows,
        local_landscape.safety_loss,
        local_landscape.safety_slope,
        local_landscape.safety_curvature,
        tasks,
        tuple(
            ProfileRecord(walk.direction, walk.distances, walk.losses)
            for walk in local_landscape.walks
        ),
    )


def _finite_radius(suggestion: Suggestion) -> SuggestedRadius:
    value = suggestion.value
    finite = value if value is not None and math.isfinite(value) else None
    return SuggestedRadius(finite, suggestion.reason)


def _endangering(
    name: str,
    task: Audited,
    rates: Influence,
    data: AuditedData,
    extractor: FeatureExtractor,
    folder: Path | None,
) -> TaskInfluence:
    worst = rates.worst(extractor.settings.drop)
    reading = extractor.reading(task)
    nll = reading.nll / reading.tokens
    surprising = float(np.quantile(nll, _SURPRISING))
    nearest = {}
    for proxy, safety in data.safety.items() if len(worst) else ():
        with suppress(TooFewPromptsError):  # then no row is told to be among them
            nearest[proxy] = context_overlap(
                [text_of(row) for row in task.chosen],
                safety.prompts,
                pairs=0,
                seed=extractor.settings.seed,
                repeats=extractor.settings.repeats,
            ).among[worst]

    def reasons(number: int, place: int) -> tuple[str, ...]:
        reason_texts = [
            f"a step on it alone raises the safety loss at the rate {rates.rates[place]:.3g}"
        ]
        among = [proxy for proxy, is_among in nearest.items() if is_among[number]]
        if among:
            reason_texts.append(
                f"its prompt falls among the safety prompts of {' and '.join(among)}"
            )
        if nll[place] >= surprising:
            reason_texts.append(
                f"its response surprises the aligned model: {nll[place]:.2f} nats per token, "
                "more than nine rows in ten"
            )
        return tuple(reason_texts)

    # A prompt and response that come again say nothing new.
    firsts: dict[Row, tuple[int, int]] = {}
    for number, place in enumerate(worst):
        firsts.setdefault(task.chosen[place], (number, int(place)))
    shown = list(firsts.values())[:_SHOWN]
    kept_file = None
    if folder is not None and len(worst):
        dropped = {id(task.chosen[place]) for place in worst}
        kept_file = f"kept-{name}.jsonl"
        kept = [row for row in task.rows if id(row) not in dropped]
        as_chat = are_chats(row.prompt for row in kept)
        lines = [json.dumps(row.to_json(as_chat)) for row in kept]
        write_atomically(folder / kept_file, "".join(f"{line}\n" for line in lines))
    return TaskInfluence(
        name,
        len(task.chosen),
        rates.trial,
        float((rates.rates > 0).mean()),
        len(worst),
        kept_file,
        tuple(
            EndangeringRow(
                text_of(task.chosen[place]), float(rates.rates[place]), reasons(number, place)
            )
            for number, place in shown
        ),
    )
