"""Facts about weights that FSDP2 shards: the same training as with whole weights."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.train import sharded, tiny
from tests.train.tiny import assert_same

CLOSE = 1e-6
"""Relative, of float32 sums that are taken in another order."""

SCALED = 1e-4
"""Of a model that is scaled to its budget, by a change of losses near 4 that are told to 1e-7."""

PAIRS = [(name, kind) for name in sharded.ON_SHARDS for kind in ("full", "lora")]


@pytest.fixture(scope="module")
def on_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what two processes recorded of every training on sharded weights."""
    folder = tmp_path_factory.mktemp("sharded")
    tiny.tiny_llama(folder / "model")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node=2", sharded.__file__, str(folder)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return folder


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_a_training_on_shards_is_that_of_one_process(
    name: str, kind: str, on_shards: Path, tmp_path: Path
) -> None:
    found = torch.load(on_shards / f"{name}-{kind}.pt")
    whole = sharded.trained_whole(name, kind, tmp_path)
    assert_same(found["weights"], whole["weights"], by=CLOSE)
    is_scaled = name == "parameter-budget"
    by = SCALED if is_scaled else CLOSE
    assert found["distance"] == pytest.approx(whole["distance"], rel=by)
    for key in ("distance", "penalty", "radius", "safety_change"):
        path, expected = (logged(one, key) for one in (found, whole))
        assert path == pytest.approx(expected, rel=5 * CLOSE, abs=CLOSE), key
    if name in ("parameter-penalty", "parameter-radius", "loss-budget", "parameter-budget"):
        assert len(logged(found, "distance")) == 7


def logged(record: dict[str, Any], key: str) -> list[float]:
    return [one[key] for one in record["logs"] if key in one]
