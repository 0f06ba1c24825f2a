"""How far judges agree with a reader and with each other, and what each says of harm."""

from __future__ import annotations

import json
from collections.abc import Iterable
from statistics import fmean

from answers import Setting
from runs import HARM, HARM_BY_SECOND, HERE, ORIGINAL, REFUSED, THE_ALIGNED, difference
from scipy.stats import spearmanr

from trimtab.analysis.labels import change_in_words, p_in_words
from trimtab.config.methods import ALIGNED
from trimtab.report.markdown import markdown_table
from trimtab.results.per_row_losses import RowLosses, known
from trimtab.results.result import Point
from trimtab.stats import (
    Array,
    Estimate,
    Statistic,
    adjusted_over_seeds,
    cohen_kappa,
    statistic_over_seeds,
)

JUDGED = {
    "refused, phrases": REFUSED,
    "harm, phrases": HARM,
    "harm, second judge": HARM_BY_SECOND,
}


def readers_table() -> str:
    """How far judges agree with who read some of the answers: on refusals, harm, and all four."""
    readings = [json.loads(line) for line in (HERE / "read.jsonl").read_text("utf-8").splitlines()]
    harmful = [reading for reading in readings if reading["kind"] == "harmful"]
    second = "Qwen2.5-Coder-1.5B (second_judge.py)"
    lines = []
    for name, judge, question, answers in (
        ("phrases", "phrases", "refused", readings),
        ("phrases", "phrases", "complied harmfully", harmful),
        (second, "second_judge:harm", "complied harmfully", harmful),
        ("phrases", "phrases", "", harmful),
        (second, "second_judge:harm", "", harmful),
    ):
        reader_labels, judge_labels = (
            [str(answer[source] == question) if question else answer[source] for answer in answers]
            for source in ("read", judge)
        )
        kappa = cohen_kappa(reader_labels, judge_labels, "")
        assert kappa is not None
        agreeing = sum(a == b for a, b in zip(reader_labels, judge_labels, strict=True))
        label = f"{question}?" if question else "which of the four?"
        lines.append((name, label, f"{agreeing} of {len(answers)}", estimate_text(kappa)))
    return markdown_table(("judge", "question", "as the reader says", "κ"), lines)


def judged_harm(points: list[Point], rows: RowLosses) -> list[Point]:
    """The models whose answers to harmful prompts the second judge has read."""
    return [point for point in points if rows.of(HARM_BY_SECOND, str(point.model)) is not None]


def harm_text(points: list[Point], settings: list[Setting], rows: RowLosses) -> str:
    """What each judge says of harm, how far the two agree, and how measures order the models."""
    start = next(point for point in points if point.method is ALIGNED)
    plain = {
        p.seed: str(p.model) for setting in settings for p in setting.points if p.spec.is_plain
    }
    judged = [setting for setting in settings if judged_harm(setting.points, rows)]

    def change(models: Iterable[tuple[Point, int]]) -> list[Statistic]:
        return [
            difference(rows, HARM_BY_SECOND, point, plain[seed]) * 100 for point, seed in models
        ]

    by_seed = {
        setting.name: change((point, point.seed) for point in setting.points)
        for setting in judged
        if not setting.points[0].spec.is_plain
    }
    adjusted = adjusted_over_seeds(by_seed)
    by_seed[THE_ALIGNED] = change((start, seed) for seed in plain)
    changes = {name: statistic_over_seeds(of_seeds, "") for name, of_seeds in by_seed.items()}
    lines = [
        (
            name,
            *(percent_of(models, data, rows) for data in JUDGED.values()),
            change_in_words(changes[name], 1) if name in changes else "–",
            p_in_words(adjusted[name]) if name in adjusted else "–",
        )
        for name, models in [
            (THE_ALIGNED, [start]),
            *((setting.name, setting.points) for setting in judged),
        ]
    ]
    columns = ("model", *JUDGED, "its change from plain, points", "adjusted p")
    models = [start, *(point for setting in judged for point in setting.points)]
    return "\n\n".join((markdown_table(columns, lines), orders_text(models, rows)))


def percent_of(points: list[Point], data: str, rows: RowLosses) -> str:
    return f"{100 * fmean(flags_of(data, point, rows).mean() for point in points):.0f} %"


def flags_of(data: str, point: Point, rows: RowLosses) -> Array:
    """1 where a rate counts the answer, of the prompts that both judges have read.

    The second judge was given every prompt, or every second one.
    """
    flags, second = (known(rows.of(name, str(point.model)))[0] for name in (data, HARM_BY_SECOND))
    every = len(flags) // len(second)
    return flags[::every]


def orders_text(models: list[Point], rows: RowLosses) -> str:
    """κ between the judges on harm, and Spearman's ρ between measures over the models."""
    flags = {data: [flags_of(data, model, rows) for model in models] for data in JUDGED.values()}
    first, second = (
        [str(flag) for answers in flags[data] for flag in answers]
        for data in (HARM, HARM_BY_SECOND)
    )
    prompts = [str(place) for answers in flags[HARM] for place in range(len(answers))]
    kappa = estimate_text(known(cohen_kappa(first, second, "", prompts)))
    safety = [known(rows.loss(ORIGINAL, str(model.model))).value for model in models]
    values = {"L_s": safety} | {
        name: [answers.mean() for answers in flags[data]] for name, data in JUDGED.items()
    }
    cells = [
        (
            name,
            *(
                change_in_words(Estimate.exact(spearmanr(ours, theirs).statistic, ""), 2)
                for theirs in values.values()
            ),
        )
        for name, ours in values.items()
    ]
    table = markdown_table((f"ρ over {len(models)} models", *values), cells)
    return f"κ of the two judges on harm, its interval over prompts: {kappa}.\n\n{table}"


def estimate_text(estimate: Estimate) -> str:
    ends = (estimate.value, estimate.low, estimate.high)
    value, low, high = (f"{end:.2f}" for end in ends)
    return f"{value} [{low}, {high}]".replace("-", "−")
