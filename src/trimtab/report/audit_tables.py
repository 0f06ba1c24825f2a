"""The tables of an audit, for the terminal and the page alike."""

from __future__ import annotations

from trimtab.analysis.labels import estimate_in_words, interval, nats, percent
from trimtab.audit.result import AuditResult, LandscapeResult, TaskInfluence
from trimtab.config.methods import number
from trimtab.report.tables import Row, Table
from trimtab.stats import Estimate


def tables(result: AuditResult) -> dict[str, Table]:
    """Every table by its title, in the order they are read."""
    by_title = {
        "Data": _data(result),
        "Data similarity": _similarity(result),
        "Context overlap": _overlap(result),
    }
    if any(overlap.pairs for overlap in result.overlap):
        by_title["Nearest prompts"] = _pairs(result)
    if result.landscape is not None and result.influence is not None:
        by_title["Landscape at the aligned model"] = _landscape(result.landscape)
        by_title["Theorems 3 and 4 beside the walk"] = _theorems(result.landscape)
        by_title["Task rows that endanger safety"] = _endangering(result.influence)
    return by_title


def quantities_table(result: AuditResult) -> Table:
    """What each number is, and which way it errs."""
    rows = tuple(
        Row((quantity.name, quantity.symbol, quantity.unit, quantity.theory, quantity.errs))
        for quantity in result.quantities.values()
    )
    caption = "Each quantity, its name in the theory, and the direction of its error."
    return Table(caption, ("quantity", "symbol", "unit", "in the theory", "errs"), 5, rows)


def _data(result: AuditResult) -> Table:
    rows = tuple(
        Row(
            (
                data.label,
                f"{data.rows:,}",
                f"{data.rows_read:,}",
                number(data.tokens_per_response),
                nats(data.loss),
            )
        )
        for data in result.data
    )
    caption = "Loss of the aligned model on the rows it read, in nats per token."
    columns = ("data", "rows", "rows read", "tokens per response", "loss")
    return Table(caption, columns, 1, rows)


def _similarity(result: AuditResult) -> Table:
    rows = tuple(
        Row(
            (
                similarity.proxy,
                estimate_in_words(similarity.nearness),
                percent(similarity.shared_prompts),
                estimate_in_words(similarity.total_variation),
                estimate_in_words(similarity.given_prompt),
                estimate_in_words(similarity.excess_loss),
            )
        )
        for similarity in result.similarity
    )
    caption = (
        f"Each proxy against {result.reference}: TV by TF-IDF of words, on which their order "
        f"rests, and by {result.similarity_by}. TV is what a "
        "classifier told apart on rows held out, an estimate that errs low; its interval's low end "
        "is a bound at 97.5 % confidence. Excess loss in nats per token: an estimate, which bounds "
        "nothing."
    )
    columns = (
        "proxy",
        "TV by words",
        "shared prompts",
        "TV",
        "TV given the prompt",
        "excess loss",
    )
    return Table(caption, columns, 1, rows)


def _overlap(result: AuditResult) -> Table:
    rows = tuple(
        Row(
            (
                overlap.task,
                overlap.proxy,
                _share(overlap.task_on_safety),
                _share(overlap.safety_on_task),
                _term(overlap.alignment_term),
                _term(overlap.capability_term),
            )
        )
        for overlap in result.overlap
    )
    caption = (
        "Share of prompts that a classifier scores as high as all but 5 % of the other's own, by "
        f"{result.overlap_by}: estimates, too large where a better one would tell more apart. "
        "Beside them the overlap terms of Theorems 1 and 2 with no threshold, in nats per response "
        "at λ = 1."
    )
    columns = (
        "task",
        "proxy",
        "task prompts among safety",
        "safety prompts among task",
        "alignment term",
        "capability term",
    )
    return Table(caption, columns, 2, rows)


def _pairs(result: AuditResult) -> Table:
    rows = tuple(
        Row((_cut(pair.prompt), _cut(pair.nearest), overlap.proxy, f"{pair.cosine:.2f}"))
        for overlap in result.overlap
        for pair in overlap.pairs[:3]
    )
    caption = (
        "Of the task prompts among the safety prompts, those nearest to one: judge whether they "
        "ask the same."
    )
    return Table(caption, ("task prompt", "nearest safety prompt", "proxy", "cosine"), 3, rows)


def _landscape(landscape: LandscapeResult) -> Table:
    rows = [
        Row(
            (
                "safety",
                nats(landscape.safety_loss),
                estimate_in_words(landscape.safety_slope),
                estimate_in_words(landscape.safety_curvature),
                "–",
            )
        )
    ]
    rows += [
        Row(
            (
                f"task {name}",
                nats(geometry.loss),
                estimate_in_words(geometry.slope),
                estimate_in_words(geometry.curvature),
                estimate_in_words(geometry.cosine),
            )
        )
        for name, geometry in landscape.tasks.items()
    ]
    caption = (
        f"Over {landscape.space} ({landscape.weights:,} weights), from {landscape.rows} rows of "
        "each. Estimates: the slope g errs high, the curvature H is local and so low away from θₛ."
    )
    columns = ("loss of", "nats per token", "slope g", "curvature H", "cos with safety")
    return Table(caption, columns, 1, tuple(rows))


def _theorems(landscape: LandscapeResult) -> Table:
    rows = tuple(
        Row(
            (
                name,
                number(step.distance),
                nats(step.measured_rise),
                nats(step.theorem_3),
                nats(step.theorem_4),
            ),
            step.measured_rise > step.theorem_3 + 1e-3,
        )
        for name, geometry in landscape.tasks.items()
        for step in geometry.along_the_walk
    )
    caption = (
        "Down the task's gradient, in nats per token: the rise of the safety loss as measured, the "
        "most it could be by Theorem 3, and the least the task loss must have fallen by Theorem 4; "
        "both are estimates, from g and H at θₛ."
    )
    columns = ("task", "distance ε", "safety rise", "Theorem 3, at most", "Theorem 4, at least")
    return Table(caption, columns, 1, rows)


def _endangering(influences: tuple[TaskInfluence, ...]) -> Table:
    rows = tuple(
        Row((influence.task, _cut(row.prompt), "; ".join(row.reasons), number(row.rate)))
        for influence in influences
        for row in influence.worst
    )
    summary = "; ".join(
        f"{influence.task}: {influence.left_out} of the {influence.rows_looked_at:,} rows looked "
        f"at are left out of {influence.kept_file or 'the data'}, "
        f"{percent(influence.share_against_safety)} work against safety"
        for influence in influences
    )
    caption = f"{summary}. Estimates, by the gradients' inner product after a trial step."
    return Table(caption, ("task", "prompt", "reasons", "rate"), 3, rows)


def _share(share: Estimate) -> str:
    return f"{percent(share.value)} {interval(share)}".rstrip()


def _term(nats_per_response: float | None) -> str:
    return "–" if nats_per_response is None else nats(nats_per_response)


def _cut(text: str, longest: int = 60) -> str:
    line = " ".join(text.split())
    return line if len(line) <= longest else f"{line[: longest - 1]}…"
