"""The tables of an audit, for the terminal and the page alike."""

from __future__ import annotations

from trimtab.analysis.labels import estimate_in_words, interval, nats, percent
from trimtab.audit.result import AuditResult, LandscapeResult, TaskInfluence
from trimtab.config.methods import number
from trimtab.report.tables import Row, Table
from trimtab.stats import Estimate


def tables(result: AuditResult) -> dict[str, Table]:
    """Every table by its title, in the order they are read."""
    found = {
        "Data": _data(result),
        "Data similarity": _similarity(result),
        "Context overlap": _overlap(result),
    }
    if any(one.pairs for one in result.overlap):
        found["Nearest prompts"] = _pairs(result)
    if result.landscape is not None and result.influence is not None:
        found["Landscape at the aligned model"] = _landscape(result.landscape)
        found["Theorems 3 and 4 beside the walk"] = _theorems(result.landscape)
        found["Task rows that endanger safety"] = _endangering(result.influence)
    return found


def quantities_table(result: AuditResult) -> Table:
    """What each number is, and which way it errs."""
    rows = tuple(
        Row((one.name, one.symbol, one.unit, one.theory, one.errs))
        for one in result.quantities.values()
    )
    caption = "Each quantity, its name in the theory, and the direction of its error."
    return Table(caption, ("quantity", "symbol", "unit", "in the theory", "errs"), 5, rows)


def _data(result: AuditResult) -> Table:
    rows = tuple(
        Row(
            (
                one.label,
                f"{one.rows:,}",
                f"{one.rows_read:,}",
                number(one.tokens_per_response),
                nats(one.loss),
            )
        )
        for one in result.data
    )
    caption = "Loss of the aligned model on the rows it read, in nats per token."
    columns = ("data", "rows", "rows read", "tokens per response", "loss")
    return Table(caption, columns, 1, rows)


def _similarity(result: AuditResult) -> Table:
    rows = tuple(
        Row(
            (
                one.proxy,
                estimate_in_words(one.nearness),
                percent(one.shared_prompts),
                estimate_in_words(one.total_variation),
                estimate_in_words(one.given_prompt),
                estimate_in_words(one.excess_loss),
            )
        )
        for one in result.similarity
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
                one.task,
                one.proxy,
                _share(one.task_on_safety),
                _share(one.safety_on_task),
                _term(one.alignment_term),
                _term(one.capability_term),
            )
        )
        for one in result.overlap
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
        Row((_cut(pair.prompt), _cut(pair.nearest), one.proxy, f"{pair.cosine:.2f}"))
        for one in result.overlap
        for pair in one.pairs[:3]
    )
    caption = (
        "Of the task prompts among the safety prompts, those nearest to one: judge whether they "
        "ask the same."
    )
    return Table(caption, ("task prompt", "nearest safety prompt", "proxy", "cosine"), 3, rows)


def _landscape(found: LandscapeResult) -> Table:
    rows = [
        Row(
            (
                "safety",
                nats(found.safety_loss),
                estimate_in_words(found.safety_slope),
                estimate_in_words(found.safety_curvature),
                "–",
            )
        )
    ]
    rows += [
        Row(
            (
                f"task {name}",
                nats(one.loss),
                estimate_in_words(one.slope),
                estimate_in_words(one.curvature),
                estimate_in_words(one.cosine),
            )
        )
        for name, one in found.tasks.items()
    ]
    caption = (
        f"Over {found.space} ({found.weights:,} weights), from {found.rows} rows of each. "
        "Estimates: the slope g errs high, the curvature H is local and so low away from θₛ."
    )
    columns = ("loss of", "nats per token", "slope g", "curvature H", "cos with safety")
    return Table(caption, columns, 1, tuple(rows))


def _theorems(found: LandscapeResult) -> Table:
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
        for name, one in found.tasks.items()
        for step in one.along_the_walk
    )
    caption = (
        "Down the task's gradient, in nats per token: the rise of the safety loss as measured, the "
        "most it could be by Theorem 3, and the least the task loss must have fallen by Theorem 4; "
        "both are estimates, from g and H at θₛ."
    )
    columns = ("task", "distance ε", "safety rise", "Theorem 3, at most", "Theorem 4, at least")
    return Table(caption, columns, 1, rows)


def _endangering(found: tuple[TaskInfluence, ...]) -> Table:
    rows = tuple(
        Row((one.task, _cut(row.prompt), "; ".join(row.reasons), number(row.rate)))
        for one in found
        for row in one.worst
    )
    told = "; ".join(
        f"{one.task}: {one.left_out} of the {one.rows_looked_at:,} rows looked at are "
        f"left out of {one.kept_file or 'the data'}, "
        f"{percent(one.share_against_safety)} work against safety"
        for one in found
    )
    caption = f"{told}. Estimates, by the gradients' inner product after a trial step."
    return Table(caption, ("task", "prompt", "reasons", "rate"), 3, rows)


def _share(share: Estimate) -> str:
    return f"{percent(share.value)} {interval(share)}".rstrip()


def _term(nats_per_response: float | None) -> str:
    return "–" if nats_per_response is None else nats(nats_per_response)


def _cut(text: str, longest: int = 60) -> str:
    line = " ".join(text.split())
    return line if len(line) <= longest else f"{line[: longest - 1]}…"
