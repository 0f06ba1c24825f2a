"""An audit: what is known of a fine-tuning before it is begun."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

from trimtab.audit.datasets import Audited, AuditedData, read_data, text_of
from trimtab.audit.features import FeatureExtractor, word_features
from trimtab.audit.geometry import landscape_and_rows
from trimtab.audit.quantities import QUANTITIES
from trimtab.audit.recommendations import make_forecast
from trimtab.audit.result import (
    AUDIT_FILE,
    AuditResult,
    DataRead,
    PairOverlap,
    ProxySimilarity,
    part,
)
from trimtab.audit.stage_cache import StageCache
from trimtab.config.audit_settings import WORDS, AuditSettings
from trimtab.config.data_source import DataSource
from trimtab.data.rows import Row, prompt_key
from trimtab.measure.generation import sampled_answers
from trimtab.measure.hidden_states import Reading
from trimtab.measure.overlap import (
    Overlap,
    alignment_overlap_term,
    capability_overlap_term,
    context_overlap,
    penalty_without_threshold,
)
from trimtab.measure.similarity import (
    Sample,
    TooFewPromptsError,
    similarity,
    total_variation_bound,
)
from trimtab.models import computes_in_float32, model_parts
from trimtab.results.files import write_atomically
from trimtab.watching import Watcher

OWN = "own answers"

_BATCH = 16


def audit(
    model: str,
    task: Mapping[str, DataSource],
    safety: Mapping[str, DataSource],
    original: DataSource | None,
    settings: AuditSettings,
    folder: Path | None,
    watcher: Watcher,
) -> AuditResult:
    """Everything measured before training; written to `folder`'s audit.json.

    Stopped at any moment and called again with the same arguments, it goes on where it was. Where
    no original data is given, the aligned model's own answers to the first proxy's prompts stand
    in for it.

    Raises:
        UserError: data or model cannot be read or are not fit to be measured.
    """
    data = read_data(original, safety, task, settings)
    for warning in data.warnings:
        watcher.warned(warning)
    stages = StageCache(folder, _identity(model, data, settings))
    extractor = FeatureExtractor(model, settings, stages, watcher)
    if settings.landscape != "none" and not computes_in_float32(extractor.model):
        # Only what was loaded tells of dtype auto, or of a folder that is quantised already.
        raise settings.too_coarse(f"what {model} is held in")
    reference = data.original or _own_answers(data, extractor, stages, settings, watcher)
    read = tuple(
        _data_read(dataset, extractor.reading(dataset))
        for dataset in _datasets_read(data, reference)
    )
    compared_with = "the original data" if data.original else "the aligned model's own answers"
    similarities = _similarities(data, reference, extractor, stages, watcher)
    overlaps = _overlaps(data, extractor, stages, watcher)
    landscape, influence = landscape_and_rows(data, reference, extractor, stages, folder, watcher)
    result = AuditResult(
        model,
        compared_with,
        asdict(settings),
        QUANTITIES,
        read,
        extractor.similarity_by,
        similarities,
        extractor.overlap_by,
        overlaps,
        landscape,
        influence,
        make_forecast(settings.budget, compared_with, read, similarities, overlaps, landscape),
        data.warnings,
    )
    if folder is not None:
        write_atomically(folder / AUDIT_FILE, json.dumps(result.to_json(), indent=1) + "\n")
        stages.finish()
    return result


def _datasets_read(data: AuditedData, reference: Audited) -> list[Audited]:
    return data.every if data.original else [reference, *data.every]


def _identity(model: str, data: AuditedData, settings: AuditSettings) -> str:
    rows = {dataset.label: hash_of(dataset) for dataset in data.every}
    record = {"model": model, "parts": model_parts(model), "rows": rows}
    return json.dumps({**record, "settings": asdict(settings)}, sort_keys=True)


def hash_of(data: Audited) -> str:
    """A fingerprint of every row."""
    digest = blake2b(digest_size=12)
    for row in data.rows:
        digest.update(repr(row).encode())
    return digest.hexdigest()


def _own_answers(
    data: AuditedData,
    extractor: FeatureExtractor,
    stages: StageCache,
    settings: AuditSettings,
    watcher: Watcher,
) -> Audited:
    proxy = next(iter(data.safety.values()))

    def sample_answers() -> list[str]:
        watcher.doing("the model's own answers", len(proxy.chosen))
        return sampled_answers(
            extractor.model,
            extractor.tokenizer,
            [row.prompt for row in proxy.chosen],
            settings.lengths,
            _BATCH,
            settings.seed,
            finished=lambda place, answer, is_whole: watcher.stepped(place + 1),
        )

    answers = stages.result(OWN, sample_answers)
    rows = tuple(
        Row(row.prompt, answer)
        for row, answer in zip(proxy.chosen, answers, strict=True)
        if answer.strip()
    )
    return Audited(OWN, "sampled from the aligned model", rows, rows)


def _data_read(data: Audited, reading: Reading) -> DataRead:
    return DataRead(
        data.label,
        data.path,
        len(data.rows),
        len(data.chosen),
        float(reading.tokens.mean()),
        float(reading.nll.sum() / reading.tokens.sum()),
        float(reading.nll.max()),
    )


def _sample(data: Audited, extractor: FeatureExtractor) -> Sample:
    prompts = [prompt_key(row.prompt) for row in data.chosen]
    return Sample(prompts, extractor.reading(data), extractor.settings.repeats)


def _similarities(
    data: AuditedData,
    reference: Audited,
    extractor: FeatureExtractor,
    stages: StageCache,
    watcher: Watcher,
) -> tuple[ProxySimilarity, ...]:
    def by_words(proxy: Audited) -> dict[str, Any] | None:
        if extractor.settings.embedding == WORDS:
            return None
        bound, _ = total_variation_bound(
            _sample(reference, extractor),
            _sample(proxy, extractor),
            word_features(reference.chosen, proxy.chosen),
            extractor.settings.seed,
        )
        return asdict(bound)

    def compared(name: str, proxy: Audited) -> dict[str, Any]:
        watcher.doing(f"similarity of {name}")
        measured = similarity(
            _sample(reference, extractor),
            _sample(proxy, extractor),
            extractor.features(reference, proxy),
            extractor.settings.seed,
        )
        return {"proxy": name, **asdict(measured), "by_words": by_words(proxy)}

    return tuple(
        part(ProxySimilarity, stages.result(f"similarity {name}", partial(compared, name, proxy)))
        for name, proxy in data.safety.items()
    )


def _overlaps(
    data: AuditedData, extractor: FeatureExtractor, stages: StageCache, watcher: Watcher
) -> tuple[PairOverlap, ...]:
    """Of every task with every proxy, but those with too few different prompts to tell it by."""

    def compared(task: str, proxy: str) -> dict[str, Any]:
        watcher.doing(f"overlap of {task} and {proxy}")
        safety = data.safety[proxy]
        try:
            overlap = overlap_of(data.task[task], safety, extractor)
        except TooFewPromptsError:
            return {}
        budget = extractor.settings.budget * float(extractor.reading(safety).tokens.mean())
        return {
            "task": task,
            "proxy": proxy,
            "task_on_safety": asdict(overlap.task_on_safety),
            "safety_on_task": asdict(overlap.safety_on_task),
            "pairs": [asdict(pair) for pair in overlap.pairs],
            "alignment_term": alignment_overlap_term(overlap.safety_posterior, 1.0),
            "capability_term": capability_overlap_term(overlap.task_posterior, 1.0),
            "penalty_without_threshold": penalty_without_threshold(
                overlap.safety_posterior, budget
            ),
        }

    pairs = (
        stages.result(f"overlap {task!r} and {proxy!r}", partial(compared, task, proxy))
        for task in data.task
        for proxy in data.safety
    )
    return tuple(part(PairOverlap, pair) for pair in pairs if pair)


def overlap_of(task: Audited, safety: Audited, extractor: FeatureExtractor) -> Overlap:
    """How many of either data set's prompts fall among the other's."""
    seed, repeats = extractor.settings.seed, extractor.settings.repeats
    task_states, safety_states = (extractor.prompt_states(dataset) for dataset in (task, safety))
    if task_states is None or safety_states is None:
        return context_overlap(task.prompts, safety.prompts, seed=seed, repeats=repeats)
    task_texts, safety_texts = (
        [text_of(row) for row in dataset.chosen] for dataset in (task, safety)
    )
    states = task_states, safety_states
    return context_overlap(task_texts, safety_texts, states, seed=seed, repeats=repeats)
