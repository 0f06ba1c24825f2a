"""Take the runs of reproduce.sh into the documents: points, figures, reports and tables.

    python docs/reproduction/write.py [DATA RUNS | --overlap AUDIT]

RUNS holds smollm2, smollm2-safety, world-SEED and audit-words, audit-model; what is not there is
kept as it was. Without them the tables are written anew from what is here, but for the one that
needs DATA. AUDIT is the folder that overlap.sh makes, of which the overlaps by words are taken and
nothing else: similarity and losses are of the aligned model. The table has overlaps by hidden
states where audit-model.json is here; only reproduce.sh makes it, for it needs that model.
"""

from __future__ import annotations

import json
import platform
import re
import shutil
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from effects import AT_MOST, FINDINGS, Effect, EffectOf, Measured, Roles
from scipy.stats import spearmanr

from trimtab.analysis.labels import estimate_in_words, percent
from trimtab.config.data_source import DataSource
from trimtab.config.methods import ALIGNED
from trimtab.data.sources import read_rows
from trimtab.measure.refusals import is_refusal
from trimtab.report import write_report
from trimtab.report.answers import share_or_dash
from trimtab.report.markdown import markdown_table, replace_between
from trimtab.results.files import write_atomically
from trimtab.results.per_row_losses import RowLosses
from trimtab.results.result import Point
from trimtab.results.store import copy_measurements, read_points
from trimtab.stats import share_change

HERE = Path(__file__).parent
PAGE = HERE.parent / "reproduction.md"
README = HERE.parents[1] / "README.md"
RECIPES = {
    "smollm2": Roles("gpt4-0613", "alpaca-7b", high_overlap="alpaca", low_overlap="code"),
    "smollm2-safety": Roles("chatgpt", "llama2-chat", high_overlap="alpaca", low_overlap=""),
}
CONFLICT, STEEPER, GEMMA = (
    HERE.parents[1] / "experiments" / name for name in ("conflict", "steeper", "gemma")
)
"""A model that judges, in what it was aligned on; one kind of safety data, so no far proxy."""
JUDGING = Roles("judging", "", "alpaca", "")
WORLD = Roles("near", "far", high_overlap="shared", low_overlap="separate")
PACKAGES = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "numpy")
OPENING_WORDS = 24
"""About as many words as the 32 tokens of an answer that refusals are looked for in."""


def main() -> None:
    if sys.argv[1:2] == ["--overlap"]:
        take_overlap(Path(sys.argv[2]))
    elif len(sys.argv) > 1:
        take_all(Path(sys.argv[1]), Path(sys.argv[2]))
    recipes = [name for name in RECIPES if (HERE / name).exists()]
    measured = {
        "built-in world": Measured(sorted(HERE.glob("world-*")), WORLD),
        **{name: Measured([HERE / name], RECIPES[name]) for name in recipes},
        "a conflict": Measured([CONFLICT], JUDGING),
        "the same, 400 rows": Measured([STEEPER], JUDGING),
        "Gemma 3 270M": Measured([GEMMA], JUDGING),
    }
    replace_between(PAGE, "findings", findings_table(measured))
    replace_between(PAGE, "audit", audit_table())
    if "smollm2-safety" in recipes:
        replace_between(PAGE, "refusals", refusals_table(HERE / "smollm2-safety"))
        replace_between(README, "loss is not refusal", rows_for_readme(HERE / "smollm2-safety"))


def take_all(data: Path, runs: Path) -> None:
    """Copy what the runs left, and note what they were made with."""
    for name in RECIPES:
        if (runs / name / "points.jsonl").exists():
            take(runs / name, HERE / name)
    for points in runs.glob("world-*/points.jsonl"):
        (HERE / points.parent.name).mkdir(exist_ok=True)
        shutil.copy(points, HERE / points.parent.name)
    for audit in runs.glob("audit-*/audit.json"):
        record = json.loads(audit.read_text(encoding="utf-8"))
        excerpt = {"similarity": record["similarity"], "overlap": overlaps(record)}
        write_atomically(HERE / f"{audit.parent.name}.json", json.dumps(excerpt, indent=1) + "\n")
    replace_between(PAGE, "matcher", matcher_table(data))
    versions = {name: version(name) for name in PACKAGES}
    record = {"python": platform.python_version(), **versions, "device": "CPU, one thread"}
    write_atomically(HERE / "versions.json", json.dumps(record, indent=1) + "\n")


def take_overlap(audit: Path) -> None:
    """Put an audit's overlaps by words in the place of those here."""
    file = HERE / "audit-words.json"
    excerpt = json.loads(file.read_text(encoding="utf-8"))
    excerpt["overlap"] = overlaps(json.loads((audit / "audit.json").read_text(encoding="utf-8")))
    write_atomically(file, json.dumps(excerpt, indent=1) + "\n")


def overlaps(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The overlaps of an audit, without any prompt."""
    return [
        {key: value for key, value in pair.items() if key != "pairs"} for pair in record["overlap"]
    ]


def take(run: Path, folder: Path) -> None:
    """Copy what a report is drawn from, and draw it."""
    shutil.rmtree(folder, ignore_errors=True)
    copy_measurements(run, folder)
    shutil.copy(run / "data.json", folder)
    settings = (run / "experiment.yaml").read_text(encoding="utf-8")
    settings = re.sub(r"(?m)^data_root: .*$", "data_root: .", settings)
    (folder / "experiment.yaml").write_text(settings, encoding="utf-8")
    write_report(folder)
    for file in (folder / "figures").iterdir():
        if file.suffix != ".png":
            file.unlink()


def findings_table(measured: dict[str, Measured]) -> str:
    """Each finding's effect and verdict in each experiment."""
    rows = []
    for statement, of_one in FINDINGS:
        cells = [
            effect_cell(experiment.effect(of_one), bound_of(experiment, of_one))
            for experiment in measured.values()
        ]
        rows.append((statement, *cells))
    return markdown_table(("the paper’s finding: effect here", *measured), rows)


def bound_of(experiment: Measured, of_one: EffectOf) -> Effect | None:
    """An upper bound of an effect, where it is below 0: by it a finding does not hold."""
    bound = experiment.effect(AT_MOST[of_one]) if of_one in AT_MOST else None
    return bound if bound and bound.estimate.high < 0 else None


def effect_cell(effect: Effect | None, bound: Effect | None) -> str:
    effect_or_bound = bound or effect
    if effect_or_bound is None:
        return "–"
    seeds = effect_or_bound.seeds
    return (
        f"**{effect_or_bound.verdict}**, {'at most ' if bound else ''}"
        f"{estimate_in_words(effect_or_bound.estimate)}, "
        f"{f'{seeds} seeds' if seeds > 1 else 'one seed'}"
    )


def audit_table() -> str:
    """Similarity of the proxies and overlap of the tasks, as the audit tells them beforehand."""
    records = {
        embedding: json.loads(path.read_text(encoding="utf-8"))
        for embedding in ("words", "model")
        if (path := HERE / f"audit-{embedding}.json").exists()
    }
    rows = []
    for embedding, record in records.items():
        if embedding == "words":
            for similarity in record["similarity"]:
                for name in ("total_variation", "given_prompt", "excess_loss"):
                    if similarity[name] is not None:
                        rows.append(
                            (
                                f"{name.replace('_', ' ')}, {similarity['proxy']}",
                                estimate_text(similarity[name]),
                            )
                        )
        for overlap in record["overlap"]:
            label = f"overlap {overlap['task']} with {overlap['proxy']}, by {embedding}"
            rows.append((label, estimate_text(overlap["task_on_safety"])))
    return markdown_table(("audit, before training", "estimate"), rows)


def estimate_text(record: dict[str, float]) -> str:
    return f"{record['value']:.3f} [{record['low']:.3f}, {record['high']:.3f}]"


def refusals_table(folder: Path) -> str:
    """Rates, and the change from the aligned model prompt by prompt."""
    rows_of = RowLosses(folder)
    points = read_points(folder)
    start = next(point for point in points if point.method is ALIGNED)
    by_model: dict[str | None, Point] = {}
    for point in points:
        by_model.setdefault(point.model, point)
    rows = []
    for point in by_model.values():
        assert point.refusal_rate is not None
        after, before = (
            rows_of.of("answers:refusal_rate", measured_point.model or "")
            for measured_point in (point, start)
        )
        change = (
            None
            if after is None or before is None
            else share_change(after[0], before[0], "share of harmful prompts")
        )
        rows.append(
            (
                point_label(point),
                share_or_dash(point.refusal_rate),
                "–"
                if change is None or point is start
                else f"{100 * change.value:+.0f} "
                f"[{100 * change.low:+.0f}, {100 * change.high:+.0f}]",
                share_or_dash(point.answer_rate),
                estimate_in_words(point.alignment_gap),
                estimate_in_words(point.capability_gap),
            )
        )
    columns = (
        "model",
        "harmful refused",
        "change from θ_s, points of a hundred",
        "benign answered",
        "safety loss over θ_s",
        "task loss over θ_s",
    )
    correlation = correlation_in_words(list(by_model.values()))
    return f"{markdown_table(columns, rows)}\n\n{correlation}"


def rows_for_readme(folder: Path) -> str:
    """Models whose order by loss is not that by refusals, the start and plain fine-tuning."""
    names = {
        "aligned model θ_s": "the start",
        "plain fine-tuning, alpaca": "plain fine-tuning",
        "Case I, λ = 0.3, chatgpt, alpaca": "safety data of ChatGPT, λ = 0.3",
        "Case I, λ = 10, llama2-chat, alpaca": "safety data of Llama-2-chat, λ = 10",
        "Case II, ε = 0.3, alpaca": "no safety data, weights within ε = 0.3",
    }
    by_label = {point_label(point): point for point in read_points(folder)}
    rows = [
        (
            name,
            estimate_in_words(by_label[model].alignment_gap),
            estimate_in_words(by_label[model].capability_gap),
            share_or_dash(by_label[model].refusal_rate),
            share_or_dash(by_label[model].answer_rate),
        )
        for model, name in names.items()
    ]
    columns = (
        "model", "safety loss over the start", "task loss over the start", "harmful refused",
        "benign answered",
    )  # fmt: skip
    return markdown_table(columns, rows)


def correlation_in_words(points: Sequence[Point]) -> str:
    """How the models' order by safety loss goes with their order by refusals."""
    losses = [point.alignment_loss.value for point in points if point.alignment_loss]
    refused = [point.refusal_rate.value for point in points if point.refusal_rate]
    answered = [point.answer_rate.value for point in points if point.answer_rate]
    tau, against = (
        float(spearmanr(losses, refused).statistic),
        float(spearmanr(refused, answered).statistic),
    )
    return (
        f"Rank correlation (Spearman) over these {len(points)} models: of the safety loss with the "
        f"share refused {tau:.2f}, of the share refused with the share of benign prompts answered "
        f"{against:.2f}.".replace("-", "−")
    )


def point_label(point: Point) -> str:
    if point.method is ALIGNED:
        return "aligned model θ_s"
    if point.spec.is_plain:
        return f"plain fine-tuning, {point.task}"
    data = f"{point.proxy}, {point.task}" if point.method.reads_safety else point.task
    return f"{point.method.short}, {point.spec.label}, {data}"


def matcher_table(data: Path) -> str:
    """How often the phrases are found in answers that people or models wrote."""
    sources = {
        "GPT-4 to do-not-answer, labelled harmless": ("do-not-answer-gpt4", {"harmful": 0}),
        "ChatGPT to do-not-answer, labelled harmless": ("do-not-answer-chatgpt", {"harmful": 0}),
        "Llama-2-chat to do-not-answer, labelled harmless": (
            "do-not-answer-llama2-7b-chat",
            {"harmful": 0},
        ),
        "all three to do-not-answer, labelled harmful": ("", {"harmful": 1}),
        "safety-refusals": ("safety-refusals", {}),
        "alpaca (nothing to refuse)": ("alpaca", {}),
        "dolly-sensitive": ("dolly-sensitive", {}),
    }
    harmless = [name for name, where in sources.values() if where == {"harmful": 0}]
    rows = []
    for label, (name, where) in sources.items():
        matches = [
            is_refusal(" ".join(row.response.split()[:OPENING_WORDS]))
            for file in ([name] if name else harmless)
            for row in read_rows(DataSource(f"{file}.jsonl.gz", where=where), data, ignore)
        ]
        rows.append((label, str(len(matches)), percent(sum(matches) / len(matches))))
    return markdown_table(("answers", "rows", "hold a phrase"), rows)


def ignore(warning: str) -> None: ...


if __name__ == "__main__":
    main()
