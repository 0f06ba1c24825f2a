from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "worked_world", DOCS / "theory" / "worked_world.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_committed_numbers_are_the_computed_ones(script: ModuleType) -> None:
    committed = _flat(json.loads(script.NUMBERS.read_text(encoding="utf-8")))
    assert committed == pytest.approx(_flat(script.compute()), rel=1e-6, abs=2e-8)


def test_the_page_shows_the_committed_numbers(script: ModuleType) -> None:
    page = script.PAGE.read_text(encoding="utf-8")
    committed = json.loads(script.NUMBERS.read_text(encoding="utf-8"))
    assert f"<!-- {script.MARK} -->\n\n{script.render(committed).strip()}\n" in page


def test_no_bound_lies_below_the_optimum_it_bounds(script: ModuleType) -> None:
    numbers = script.compute()
    for row in numbers["case_1"]:
        assert row["alignment_gap"] <= row["theorem_1"] <= float(row["theorem_1_classical"])
        assert row["capability_gap"] <= row["theorem_2"] <= row["theorem_2_classical"]
        assert row["oracle_capability_gap"] <= row["capability_gap"] + 1e-8
    for row in (*numbers["case_2_ball"], *numbers["case_2_penalty"]):
        assert row["alignment_gap"] <= row["theorem_3"] <= row["theorem_3_classical"]
        assert row["capability_gap"] <= row["theorem_4"] <= row["theorem_4_classical"]


def _flat(part: object, name: str = "") -> dict[str, float]:
    """Every number by its path; infinity is a word in JSON, which `float` reads."""
    if not isinstance(part, dict | list):
        return {name: float(part)}  # type: ignore[arg-type]
    items = part.items() if isinstance(part, dict) else enumerate(part)
    return {k: v for key, value in items for k, v in _flat(value, f"{name}/{key}").items()}
