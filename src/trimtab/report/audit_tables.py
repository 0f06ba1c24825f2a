"""The tables of an audit, for the terminal and the page alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trimtab.analysis.labels import estimate_in_words, interval, nats, number, percent
from trimtab.report.tables import Row, Table
from trimtab.stats import Estimate


def tables(record: Mapping[str, Any]) -> dict[str, Table]:
    """Every table by its title, in the order they are read."""
    found = {
        "Data": _data(record),
        "Data similarity": _similarity(record),
        "Context overlap": _overlap(record),
        "Nearest prompts": _pairs(record),
    }
    if record["landscape"] is not None:
        found["Landscape at the aligned model"] = _landscape(record["landscape"])
        found["Theorems 3 and 4 beside the walk"] = _theorems(record["landscape"])
        found["Task rows that endanger safety"] = _endangering(record["influence"])
    return found


def quantities_table(record: Mapping[str, Any]) -> Table:
    """What each number is, and which way it errs."""
    rows = tuple(
        Row((one["name"], one["symbol"], one["unit"], one["theory"], one["errs"]))
        for one in record["quantities"].values()
    )
    caption = "Each quantity, its name in the theory, and the direction of its error."
    return Table(caption, ("quantity", "symbol", "unit", "in the theory", "errs"), 5, rows)


def _data(record: Mapping[str, Any]) -> Table:
    rows = tuple(
        Row(
            (
                one["label"],
                f"{one['rows']:,}",
                f"{one['rows_read']:,}",
                number(one["tokens_per_response"]),
                nats(one["loss"]),
            )
        )
        for one in record["data"]
    )
    caption = "Loss of the aligned model on the rows it read, in nats per token."
    columns = ("data", "rows", "rows read", "tokens per response", "loss")
    return Table(caption, columns, 1, rows)


def _similarity(record: Mapping[str, Any]) -> Table:
    rows = tuple(
        Row(
            (
                one["proxy"],
                percent(one["shared_prompts"]),
                _estimate(one["total_variation"]),
                _estimate(one["given_prompt"]),
                _estimate(one["excess_loss"]),
            )
        )
        for one in record["similarity"]
    )
    caption = (
        f"Each proxy against {record['reference']}, by {record['similarity_by']}. TV is what a "
        "classifier told apart on rows held out, an estimate that errs low; its interval's low end "
        "is a bound at 97.5 % confidence. Excess loss in nats per token: an estimate, which bounds "
        "nothing."
    )
    columns = ("proxy", "shared prompts", "TV", "TV given the prompt", "excess loss")
    return Table(caption, columns, 1, rows)


def _overlap(record: Mapping[str, Any]) -> Table:
    rows = tuple(
        Row(
            (
                one["task"],
                one["proxy"],
                _share(one["task_on_safety"]),
                _share(one["safety_on_task"]),
            )
        )
        for one in record["overlap"]
    )
    caption = (
        f"Share of prompts that fall among the other's, by {record['overlap_by']}: estimates, "
        "which depend on that choice."
    )
    columns = ("task", "proxy", "task prompts among safety", "safety prompts among task")
    return Table(caption, columns, 2, rows)


def _pairs(record: Mapping[str, Any]) -> Table:
    rows = tuple(
        Row((_cut(pair["prompt"]), _cut(pair["nearest"]), one["proxy"], f"{pair['cosine']:.2f}"))
        for one in record["overlap"]
        for pair in one["pairs"][:3]
    )
    caption = "The nearest prompts of each pair of data sets: judge whether they ask the same."
    return Table(caption, ("task prompt", "nearest safety prompt", "proxy", "cosine"), 3, rows)


def _landscape(found: Mapping[str, Any]) -> Table:
    rows = [
        Row(
            (
                "safety",
                nats(found["safety_loss"]),
                _estimate(found["safety_slope"]),
                _estimate(found["safety_curvature"]),
                "–",
            )
        )
    ]
    rows += [
        Row(
            (
                f"task {name}",
                nats(one["loss"]),
                _estimate(one["slope"]),
                _estimate(one["curvature"]),
                _estimate(one["cosine"]),
            )
        )
        for name, one in found["tasks"].items()
    ]
    caption = (
        f"Over {found['space']} ({found['weights']:,} weights), from {found['rows']} rows of each. "
        "Estimates: the slope g errs high, the curvature H is local and so low away from θₛ."
    )
    columns = ("loss of", "nats per token", "slope g", "curvature H", "cos with safety")
    return Table(caption, columns, 1, tuple(rows))


def _theorems(found: Mapping[str, Any]) -> Table:
    rows = tuple(
        Row(
            (
                name,
                number(step["distance"]),
                nats(step["measured_rise"]),
                nats(step["theorem_3"]),
                nats(step["theorem_4"]),
            ),
            step["measured_rise"] > step["theorem_3"] + 1e-3,
        )
        for name, one in found["tasks"].items()
        for step in one["along_the_walk"]
    )
    caption = (
        "Down the task's gradient, in nats per token: the rise of the safety loss as measured, the "
        "most it could be by Theorem 3, and the least the task loss must have fallen by Theorem 4; "
        "both are estimates, from g and H at θₛ."
    )
    columns = ("task", "distance ε", "safety rise", "Theorem 3, at most", "Theorem 4, at least")
    return Table(caption, columns, 1, rows)


def _endangering(found: list[Mapping[str, Any]]) -> Table:
    rows = tuple(
        Row((one["task"], _cut(row["prompt"]), "; ".join(row["reasons"]), number(row["rate"])))
        for one in found
        for row in one["worst"]
    )
    told = "; ".join(
        f"{one['task']}: {one['left_out']} of the {one['rows_looked_at']:,} rows looked at are "
        f"left out of {one['kept_file'] or 'the data'}, "
        f"{percent(one['share_against_safety'])} work against safety"
        for one in found
    )
    caption = f"{told}. Estimates, by the gradients' inner product after a trial step."
    return Table(caption, ("task", "prompt", "reasons", "rate"), 3, rows)


def _estimate(given: Mapping[str, Any] | None) -> str:
    return estimate_in_words(None if given is None else Estimate(**given))


def _share(given: Mapping[str, Any]) -> str:
    return f"{percent(given['value'])} {interval(Estimate(**given))}".rstrip()


def _cut(text: str, longest: int = 60) -> str:
    line = " ".join(text.split())
    return line if len(line) <= longest else f"{line[: longest - 1]}…"
