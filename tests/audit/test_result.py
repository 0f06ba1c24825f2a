"""Facts about the record of an audit."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from trimtab.audit.result import AuditResult, read_audit_result
from trimtab.errors import UserError
from trimtab.report import audit_tables
from trimtab.stats import Estimate

EXAMPLE = Path(__file__).parent.parent.parent / "docs" / "audit" / "example.json"


@pytest.fixture
def record() -> dict[str, Any]:
    """The audit of the worked example."""
    example: dict[str, Any] = json.loads(EXAMPLE.read_text(encoding="utf-8"))
    return example


def test_an_audit_is_read_with_all_it_holds(record: dict[str, Any]) -> None:
    result = read_audit_result(EXAMPLE)
    assert isinstance(result.similarity[0].total_variation, Estimate)
    assert result.landscape is not None
    assert result.influence is not None
    assert result.to_json() == record


def test_an_earlier_audit_is_read(record: dict[str, Any], tmp_path: Path) -> None:
    record["endangering"] = record.pop("influence")
    for similarity in record["similarity"]:
        del similarity["by_words"]
    for pair in record["overlap"]:
        del pair["alignment_term"], pair["capability_term"], pair["penalty_without_threshold"]
        pair["thresholds"] = [0.1, 0.2]
    del record["forecast"]["alike_proxies"], record["forecast"]["alike_tasks"]
    (tmp_path / "audit.json").write_text(json.dumps(record), encoding="utf-8")
    result = read_audit_result(tmp_path / "audit.json")
    assert result.similarity[0].nearness == result.similarity[0].total_variation
    assert result.influence is not None
    assert result.overlap[0].alignment_term is None
    assert "–" in audit_tables.tables(result)["Context overlap"].rows[0].cells


def test_a_written_audit_is_read_back(tmp_path: Path) -> None:
    result = read_audit_result(EXAMPLE)
    (tmp_path / "audit.json").write_text(json.dumps(result.to_json()), encoding="utf-8")
    assert read_audit_result(tmp_path / "audit.json") == result


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda record: record.pop("overlap"), r"overlap: Field required"),
        (lambda record: record["forecast"].pop("reasoning"), r"forecast.reasoning: Field required"),
        (lambda record: record["data"][1].update(loss="high"), r"data.1.loss: .*number"),
        (
            lambda record: record["similarity"][0]["excess_loss"].update(kind="guess"),
            r"similarity.0.excess_loss.kind: .*'estimate'",
        ),
    ],
)
def test_what_is_no_audit_is_told_by_its_place(
    spoil: Any, told: str, record: dict[str, Any], tmp_path: Path
) -> None:
    spoil(record)
    path = tmp_path / "audit.json"
    path.write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(UserError, match=told) as raised:
        read_audit_result(path)
    assert re.match(rf"{path}: not an audit of this version", str(raised.value))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("text", ["", "[]", "{", "null"])
def test_a_torn_file_is_no_audit(text: str, tmp_path: Path) -> None:
    (tmp_path / "audit.json").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="not an audit of this version"):
        read_audit_result(tmp_path / "audit.json")


def test_the_record_on_disk_has_its_fields_in_their_order() -> None:
    assert list(read_audit_result(EXAMPLE).to_json()) == list(AuditResult.__dataclass_fields__)
