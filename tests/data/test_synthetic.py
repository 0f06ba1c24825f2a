from pathlib import Path

import pytest

from trimtab.data.synthetic import make_world, write_data
from trimtab.errors import UserError


def test_a_world_that_points_were_measured_in_is_not_written_over(tmp_path: Path) -> None:
    first, second = (make_world({"near": 0.1}, {"shared": 1.0}, seed) for seed in (0, 1))
    write_data(first, tmp_path, rows=10)

    def content() -> dict[str, bytes]:
        return {str(p): p.read_bytes() for p in tmp_path.rglob("*") if p.suffix == ".jsonl"}

    before = content()
    with pytest.raises(UserError, match="another world"):
        write_data(second, tmp_path, rows=10, seed=1)
    assert content() == before
    write_data(first, tmp_path, rows=10)
    assert content() == before
    write_data(second, tmp_path, rows=10, seed=1, replace=True)
    assert content() != before
