"""Plots as a page keeps them: rows by column, and a text that many rows share told once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

DIGITS = 6
"""That matter of a place in a plot: more than can be seen."""


def packed(plots: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Vega-Lite plots whose data sets hold columns, and in place of texts their places in `texts`.

    What a mark tells stands in the page once, in however many figures the mark is. `page.js`
    unpacks them.

    >>> packed([{"datasets": {"a": [{"x": 0.12345678, "hover": "θ"}, {"x": 1, "hover": "θ"}]}}])
    {'plots': [{'datasets': {'a': {'values': {'x': [0.123457, 1]}, 'texts': {'hover': [0, 0]}}}}], \
'texts': ['θ']}
    """
    texts: dict[str, int] = {}
    return {
        "plots": [
            {
                **plot,
                "datasets": {
                    name: _columns(rows, texts) for name, rows in plot.get("datasets", {}).items()
                },
            }
            for plot in plots
        ],
        "texts": list(texts),
    }


def rounded(value: Any) -> Any:
    """A number to the digits that plots keep; whatever else it is, the same.

    >>> rounded(1.23456789), rounded(3), rounded("λ")
    (1.23457, 3, 'λ')
    """
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def _columns(rows: Sequence[Mapping[str, Any]], texts: dict[str, int]) -> Any:
    """By field the values or, in `texts`, the texts' places; unlike rows as they are."""
    if len({tuple(row) for row in rows}) != 1:
        return rows
    columns = {field: [rounded(row[field]) for row in rows] for field in rows[0]}
    is_text = {
        field: all(isinstance(value, str) for value in column) for field, column in columns.items()
    }
    return {
        "values": {field: column for field, column in columns.items() if not is_text[field]},
        "texts": {
            field: [texts.setdefault(text, len(texts)) for text in column]
            for field, column in columns.items()
            if is_text[field]
        },
    }
