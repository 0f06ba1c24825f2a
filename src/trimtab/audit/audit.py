"""An audit: what is known of a fine-tuning before it is begun."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.audit.datasets import Audited, AuditedData, read_data, text_of
from trimtab.audit.features import FeatureExtractor, Watcher
from trimtab.audit.geometry import landscape_and_rows
from trimtab.audit.quantities import QUANTITIES
from trimtab.audit.recommendations import outlook
from trimtab.audit.result import (
    AUDIT_FILE,
    AuditResult,
    DataRead,
    PairOverlap,
    ProxySimilarity,
    part,
)
from trimtab.audit.settings import AuditSettings
from trimtab.audit.stage_cache import StageCache
from trimtab.config.data_source import DataSource
from trimtab.data.rows import Row
from trimtab.measure.generation import sampled_answers
from trimtab.measure.hidden_states import Reading
from trimtab.measure.overlap import Overlap, context_overlap
from trimtab.measure.similarity import Sample, similarity
from trimtab.results.files import write_atomically

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
    reference = data.original or _own_answers(data, extractor, stages, settings, watcher)
    read = tuple(_described(one, extractor.reading(one)) for one in _looked_at(data, reference))
    compared_with = "the original data" if data.original else "the aligned model's own answers"
    similarities = _similarities(data, reference, extractor, stages, watcher)
    overlaps = _overlaps(data, extractor, stages, watcher)
    found, influence = landscape_and_rows(data, reference, extractor, stages, folder, watcher)
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
        found,
        influence,
        outlook(settings.budget, compared_with, read, similarities, overlaps, found),
        data.warnings,
    )
    if folder is not None:
        write_atomically(folder / AUDIT_FILE, json.dumps(result.to_json(), indent=1) + "\n")
        stages.finish()
    return result


def _looked_at(data: AuditedData, reference: Audited) -> list[Audited]:
    return data.every if data.original else [reference, *data.every]


def _identity(model: str, data: AuditedData, settings: AuditSettings) -> str:
    rows = {one.label: hash_of(one) for one in data.every}
    return json.dumps({"model": model, "rows": rows, "settings": asdict(settings)}, sort_keys=True)


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
    asked = next(iter(data.safety.values()))

    def made() -> list[str]:
        watcher.doing("the model's own answers", len(asked.chosen))
        return sampled_answers(
            extractor.model,
            extractor.tokenizer,
            [row.prompt for row in asked.chosen],
            settings.lengths,
            _BATCH,
            settings.seed,
            finished=lambda place, answer: watcher.done(1),
        )

    answers = stages.result(OWN, made)
    rows = tuple(
        Row(row.prompt, answer)
        for row, answer in zip(asked.chosen, answers, strict=True)
        if answer.strip()
    )
    return Audited(OWN, "sampled from the aligned model", rows, rows)


def _described(data: Audited, reading: Reading) -> DataRead:
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
    prompts = [repr([(m.role, m.content.strip()) for m in row.prompt]) for row in data.chosen]
    return Sample(prompts, extractor.reading(data))


def _similarities(
    data: AuditedData,
    reference: Audited,
    extractor: FeatureExtractor,
    stages: StageCache,
    watcher: Watcher,
) -> tuple[ProxySimilarity, ...]:
    def compared(name: str, proxy: Audited) -> dict[str, Any]:
        watcher.doing(f"similarity of {name}")
        found = similarity(
            _sample(reference, extractor),
            _sample(proxy, extractor),
            extractor.features(reference, proxy),
            extractor.settings.seed,
        )
        return {"proxy": name, **asdict(found)}

    return tuple(
        part(ProxySimilarity, stages.result(f"similarity {name}", partial(compared, name, proxy)))
        for name, proxy in data.safety.items()
    )


def _overlaps(
    data: AuditedData, extractor: FeatureExtractor, stages: StageCache, watcher: Watcher
) -> tuple[PairOverlap, ...]:
    def compared(task: str, proxy: str) -> dict[str, Any]:
        watcher.doing(f"overlap of {task} and {proxy}")
        forward = overlap_of(
            data.task[task], data.safety[proxy], extractor, "share of task prompts"
        )
        backward = overlap_of(
            data.safety[proxy], data.task[task], extractor, "share of safety prompts"
        )
        return {
            "task": task,
            "proxy": proxy,
            "task_on_safety": asdict(forward.share),
            "safety_on_task": asdict(backward.share),
            "thresholds": [forward.threshold, backward.threshold],
            "pairs": [asdict(pair) for pair in forward.pairs],
        }

    return tuple(
        part(
            PairOverlap,
            stages.result(f"overlap {task} and {proxy}", partial(compared, task, proxy)),
        )
        for task in data.task
        for proxy in data.safety
    )


def overlap_of(one: Audited, known: Audited, extractor: FeatureExtractor, unit: str) -> Overlap:
    """How many of one data set's prompts fall among another's."""
    theirs = extractor.prompt_states(known)
    by_words = theirs is None
    kept, apart = known.divided(extractor.settings.seed, chosen=not by_words)
    texts = [text_of(row) for row in (known.rows if by_words else known.chosen)]
    asked = one.prompts if by_words else [text_of(row) for row in one.chosen]
    states = None
    if theirs is not None:
        ours = extractor.prompt_states(one)
        assert ours is not None
        states = (ours, theirs[np.array(kept)], theirs[np.array(apart)])
    return context_overlap(
        asked, [texts[p] for p in kept], [texts[p] for p in apart], states, unit=unit
    )
