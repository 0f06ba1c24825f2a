"""The overlaps of an audit as docs/audit/overlap.json, without any prompt, and as audit.md's table.

python docs/audit/overlap.py OUT  # the folder that overlap.sh made
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from trimtab.analysis.labels import interval, nats, percent
from trimtab.audit.result import AUDIT_FILE, PairOverlap, read_audit_result
from trimtab.report.markdown import markdown_table, replace_between
from trimtab.stats import Estimate

RECORD = Path(__file__).parent / "overlap.json"
COLUMNS = (
    "task",
    "safety prompts",
    "task prompts among safety",
    "safety prompts among task",
    "alignment term",
    "capability term",
)


def main() -> None:
    pairs = read_audit_result(Path(sys.argv[1]) / AUDIT_FILE).overlap
    record = [
        {key: value for key, value in asdict(pair).items() if key != "pairs"} for pair in pairs
    ]
    RECORD.write_text(json.dumps(record, indent=1) + "\n")
    table = markdown_table(COLUMNS, [_cells(pair) for pair in pairs])
    replace_between(RECORD.parents[1] / "audit.md", "overlaps", table)
    print(table)


def _cells(pair: PairOverlap) -> tuple[str, ...]:
    terms = (pair.alignment_term, pair.capability_term)
    return (
        pair.task,
        pair.proxy,
        _share(pair.task_on_safety),
        _share(pair.safety_on_task),
        *("–" if term is None else nats(term) for term in terms),
    )


def _share(share: Estimate) -> str:
    return f"{percent(share.value)} {interval(share)}"


if __name__ == "__main__":
    main()
