"""The report: figures in files, and one page that opens from disk with no network."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from trimtab.analysis.bounds import bounds_beside
from trimtab.analysis.dial import DialSetting, dial_settings
from trimtab.analysis.findings import (
    Finding,
    distances_in,
    findings,
    no_model_passes_the_limit,
)
from trimtab.analysis.labels import nats, unbroken
from trimtab.analysis.limits import Limits
from trimtab.analysis.methods import MethodResult, method_results
from trimtab.analysis.optimality_gap import PointOptimalityGap, optimality_gap
from trimtab.analysis.overview import Overview, overview
from trimtab.analysis.results import Results, read_results
from trimtab.analysis.side_by_side import SideBySide, side_by_side
from trimtab.config.experiment import PHRASES
from trimtab.config.methods import ALIGNED, CASE_1, number
from trimtab.config.model_names import judge_name
from trimtab.report import choices, renderer, tables
from trimtab.report.answer import answer_in_words
from trimtab.report.answers import ANSWERS_FIGURE, answers_figure, answers_table
from trimtab.report.audit_page import AuditSection, read_audit
from trimtab.report.chart import Figure
from trimtab.report.choices import Picture
from trimtab.report.figures import DIAL_FIGURE, figures
from trimtab.report.html import for_script, template
from trimtab.report.methods_figure import methods_figure
from trimtab.report.packed import packed
from trimtab.report.palette import Palette
from trimtab.results.files import write_atomically
from trimtab.stats import Estimate

PAGE_FILE = "report.html"
METHODS_FILE = "methods.json"
FIGURES_FOLDER = "figures"
LARGEST = 1_480_000
"""Bytes of a page that answers may fill."""


@dataclass(frozen=True)
class Report:
    """Where the page and the figures were written, and what they show."""

    page: Path
    figures: tuple[Path, ...]
    findings: tuple[Finding, ...]


def write_report(folder: Path) -> Report:
    """Draw what is in `folder` into `figures/` and `report.html` beside its points.

    A figure is left out where the points fill none of its panels; the page says what is missing.

    Raises:
        UserError: there are no points, or a file in the folder is broken.
    """
    results = read_results(folder)
    limits = Limits(results.world) if results.world is not None else None
    optimality_gaps = (
        optimality_gap(results.points, results.world) if results.world is not None else ()
    )
    limit_finding = no_model_passes_the_limit(optimality_gaps)
    audit = read_audit(folder)
    trend_findings = findings(results.points, results.rows, _distances(results, audit))
    all_findings = (*trend_findings, *([limit_finding] if limit_finding else []))
    methods = method_results(results.points, results.rows)
    of_methods = methods_figure(results.points, methods, limits)
    of_answers = answers_figure(results.points)
    drawn_figures = (
        *figures(results.points, limits, results.landscape),
        *(figure for figure in (of_methods, of_answers) if figure),
    )
    if methods:
        records = [result.to_json() for result in methods]
        write_atomically(folder / METHODS_FILE, json.dumps(records, indent=1) + "\n")
    else:
        (folder / METHODS_FILE).unlink(missing_ok=True)
    with_panels = [figure for figure in drawn_figures if figure.panels]
    renderer.remove_others(with_panels, folder / FIGURES_FOLDER)
    paths: list[Path] = []
    for figure in with_panels:
        paths += renderer.save(figure, folder / FIGURES_FOLDER)
    page = folder / PAGE_FILE
    write_atomically(
        page, _page(folder, results, drawn_figures, all_findings, optimality_gaps, methods, audit)
    )
    return Report(page, tuple(paths), all_findings)


def _judge(results: Results) -> str:
    """Whose counts the results hold; the first version had no judge but phrases."""
    answer_settings = results.settings.get("answers") or {}
    return judge_name(str((answer_settings.get("judges") or [PHRASES])[0]))


def _distances(results: Results, audit: AuditSection | None) -> Mapping[str, Estimate]:
    """How far each proxy lies from the original data, by the first that says so.

    A known world; distances stated in the experiment's safety data; the audit in the folder.
    Distances of two sources have no common unit and are never mixed.
    """
    if results.world is not None:
        return distances_in(results.world)
    stated = {
        name: source["distance"]
        for name, source in results.settings.get("safety", {}).items()
        if isinstance(source, dict) and source.get("distance") is not None
    }
    if stated or audit is None:
        return {
            name: Estimate.exact(distance, "distance stated") for name, distance in stated.items()
        }
    return audit.distances


def _page(
    folder: Path,
    results: Results,
    drawn_figures: Sequence[Figure],
    all_findings: Sequence[Finding],
    optimality_gaps: Sequence[PointOptimalityGap],
    methods: Sequence[MethodResult],
    audit: AuditSection | None,
) -> str:
    options = overview(results.points, results.rows)
    picture = choices.picture(options, results.points, results.rows) if options else None
    of_slider = dial_settings(results.points, results.world, results.samples)
    of_dial = next((figure for figure in drawn_figures if figure.number == DIAL_FIGURE), None)
    figures_below = [figure for figure in drawn_figures if figure.panels and figure is not of_dial]
    panels = [panel for figure in figures_below for panel in figure.panels]
    plenty = options is None or len(options.trained) > 1
    plots = [renderer.plot(panel) for panel in (*panels, *(audit.panels if audit else ()))]

    def place_of(plot: dict[str, Any] | None) -> int | None:
        """Where it is put among the plots."""
        if plot is None:
            return None
        plots.append(plot)
        return len(plots) - 1

    dial_place = place_of(_dial_plot(of_dial, of_slider))
    choice_place = place_of(_choice_plot(options, picture))
    page = partial(
        template("page.html.j2").render,
        dial=of_slider if of_dial is not None and of_dial.panels else (),
        dial_figure=of_dial,
        dial_script=for_script(
            {
                "plot": dial_place,
                "settings": [_for_slider(setting) for setting in of_slider],
            }
        ),
        samples=results.samples,
        answer=[unbroken(sentence) for sentence in answer_in_words(options)]
        if options
        else [_summary(results)],
        options=options,
        choices=choices.choices_table(options) if options else None,
        picture=picture.panel if picture else None,
        plenty=plenty,
        draws_rates=ANSWERS_FIGURE
        if plenty and any(figure.number == ANSWERS_FIGURE for figure in figures_below)
        else None,
        palette=Palette.of(results.points),
        findings=all_findings,
        says_anything=any(finding.verdict != "too few to say" for finding in all_findings),
        figures=figures_below,
        missing=[line for figure in drawn_figures for line in figure.missing],
        plots=for_script(packed(plots)),
        plots_of_figures=len(panels),
        audit=audit,
        library=renderer.library(),
        figures_folder=FIGURES_FOLDER,
        kinds=renderer.KINDS,
        optimality_gap=tables.optimality_gap_table(optimality_gaps) if optimality_gaps else None,
        optimality_gap_in_words=_optimality_gap_in_words(optimality_gaps),
        bounds=tables.bounds_tables(
            bounds_beside(results.points, results.world, results.landscape, results.rows)
        ),
        methods=tables.methods_table(methods) if methods else None,
        alarms=sum(gap.is_impossible for gap in optimality_gaps),
        budgets=tables.budgets_table(results.points),
        answers=answers_table(results.points, _judge(results)),
        judge=_judge(results),
        losses=tables.losses_table(results.points),
        gaps=tables.gaps_table(results.points),
        settings=tables.settings_table(results.settings) if results.settings else None,
        data=tables.data_table(results.data) if results.data else None,
        failures=tables.failures_table(results.failures) if results.failures else None,
        has_world=results.world is not None,
        has_original=any(point.alignment_gap is not None for point in results.points),
        one_seed=len({point.seed for point in results.points}) == 1,
    )

    def with_answers(answers: SideBySide | None) -> str:
        known = for_script(_for_choosing(options, picture, choice_place, answers))
        return page(shown_answers=answers, choice_script=known)

    bare = with_answers(None)
    answers = _answers(folder, results, options, LARGEST - len(bare.encode())) if options else None
    return with_answers(answers) if answers else bare


def _dial_plot(figure: Figure | None, settings: Sequence[DialSetting]) -> dict[str, Any] | None:
    """The dial's panel, with a ring around the setting that the slider shows."""
    if figure is None or not figure.panels or not settings:
        return None
    return renderer.plot(figure.panels[0], settings[0].place)


def _choice_plot(options: Overview | None, picture: Picture | None) -> dict[str, Any] | None:
    """The picture of the choices, with a ring around the first shown."""
    if options is None or picture is None:
        return None
    return renderer.plot(picture.panel, picture.places[_first_shown(options)])


def _for_slider(setting: DialSetting) -> dict[str, Any]:
    """What the page's script puts in place when the slider moves."""
    return {
        "name": f"α = {number(setting.alpha)}",
        "penalty": f"trained at λ = {number(setting.penalty)}",
        "place": setting.place,
        "measured": setting.measured,
        "theory": setting.theory,
        "at": f"α = {number(setting.answers[0].alpha)}" if setting.answers else "",
        "answers": [[answer.text, answer.note] for answer in setting.answers],
    }


def _answers(folder: Path, results: Results, options: Overview, room: int) -> SideBySide | None:
    """What the models answered, the start's first, in so many bytes of the page."""
    names = [
        point.model for option in options.options for point in option.setting.points if point.model
    ]
    answer_settings = results.settings.get("answers") or {}
    judges = [judge_name(judge) for judge in answer_settings.get("judges") or []]
    return side_by_side(folder, names, judges, room)


def _first_shown(options: Overview) -> int:
    shown = options.best or options.plain or options.trained[0]
    return next(place for place, option in enumerate(options.options) if option is shown)


def _for_choosing(
    options: Overview | None,
    picture: Picture | None,
    plot: int | None,
    answers: SideBySide | None,
) -> dict[str, Any] | None:
    """The options, the first shown, where their picture is among the plots, and what models say."""
    if options is None:
        return None
    return {
        "options": choices.for_script(options, picture),
        "first": _first_shown(options),
        "plot": plot,
        "answers": asdict(answers) if answers else None,
    }


def _summary(results: Results) -> str:
    """What was measured, where nothing is there to say what was changed."""
    trained = [point for point in results.points if point.method is not ALIGNED]
    if not trained:
        return "No trained model is here yet: these are the numbers of the start alone."
    tasks = len({point.task for point in results.points})
    proxies = len({point.proxy for point in results.points if point.proxy is not None})
    sets = _count(proxies, "set of safety data", "sets of safety data")
    return (
        f"This report measures {_count(len(trained), 'trained model')} over "
        f"{_count(tasks, 'task')} and {sets}. The model that they start from was not measured, so "
        "what each changed is not known."
    )


def _optimality_gap_in_words(optimality_gaps: Sequence[PointOptimalityGap]) -> str:
    gaps = [
        gap.on_proxy
        for gap in optimality_gaps
        if gap.point.method is CASE_1 and gap.point.spec.value and gap.on_proxy is not None
    ]
    if not gaps:
        return ""
    excesses = sorted(gap.excess for gap in gaps)
    sentence = (
        f"Trained under a penalty λ > 0, Case I models stay {nats(excesses[0])} to "
        f"{nats(excesses[-1])} nats per token above the least capability gap possible at the "
        "proxy gap they reached"
    )
    ratios = [gap.ratio for gap in gaps if gap.ratio is not None]
    return (
        f"{sentence}; the median model has {median(ratios):.2f} times it."
        if ratios
        else f"{sentence}."
    )


def _count(number: int, singular: str, plural: str = "") -> str:
    return f"{number} {singular if number == 1 else plural or singular + 's'}"
