"""Facts about comparisons: what is tried, at what cost, and that it is made and told."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from trimtab.cli.compare import _print_methods
from trimtab.config.experiment import Block, Experiment, Training
from trimtab.config.grid import plan_of
from trimtab.config.methods import ALIGNED, DIAL, METHODS, OWN, PUBLISHED
from trimtab.config.yaml_io import to_yaml
from trimtab.errors import UserError
from trimtab.results.store import read_points
from trimtab.runner.comparison import comparison_of, comparison_world

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    small = comparison_world(tmp_path_factory.mktemp("world"))
    few = Training(steps=4, batch_size=8, learning_rate=2e-3)
    return replace(small, align=few, train=few, seeds=(0, 1))


def test_every_method_is_tried_as_often_as_any_other(world: Experiment) -> None:
    plan = plan_of(comparison_of(world)[0])
    values_by_method: dict[str, set[object]] = {}
    for spec in plan.specs:
        if spec.value is not None and not spec.is_plain:
            values_by_method.setdefault(spec.method.name, set()).add(spec.value)
    assert {len(values) for values in values_by_method.values()} == {5}
    assert set(values_by_method) == set(OWN | PUBLISHED) - {
        "aligned",
        "plain",
        "alignment-parameter-radius",
    }


def test_methods_after_training_share_the_plain_run(world: Experiment) -> None:
    runs = plan_of(comparison_of(world)[0]).runs
    plain = [run for run in runs if run.training.is_plain]
    assert len(plain) == len(world.seeds)
    assert {spec.method.name for spec in plain[0].specs} == {
        "alignment-loss",
        "wise-ft",
        "resta",
        "safe-lora",
    }


def test_a_dial_is_one_training_of_two_runs_length_for_all_its_settings(world: Experiment) -> None:
    grid, _ = comparison_of(world)
    dials = [run for run in plan_of(grid).runs if run.training.method is DIAL]
    assert len(dials) == len(world.seeds)
    assert [spec.value for spec in dials[0].specs] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert grid.dial is not None
    assert grid.dial.steps == 2 * grid.train.steps
    with pytest.raises(UserError, match="needs a dial"):
        replace(world, grid=(Block("dial", values=(0.5,)),))


def test_what_needs_the_unaligned_model_is_left_out_aloud(world: Experiment) -> None:
    grid, left_out = comparison_of(replace(world, align=None))
    assert list(left_out) == ["resta", "safe-lora", "pact"]
    assert not set(left_out) & {block.method for block in grid.grid}
    with pytest.raises(UserError, match="before it was aligned"):
        replace(world, align=None, grid=(Block("method", method="resta", values=(1.0,)),))


def test_what_takes_no_adapter_is_left_out_beside_adapters(world: Experiment) -> None:
    grid, left_out = comparison_of(replace(world, train=replace(world.train, lora_rank=2)))
    assert list(left_out) == ["osf"]
    assert "lora_rank" in left_out["osf"]
    assert "osf" not in {block.method for block in grid.grid}


def test_a_grid_with_methods_is_the_users_choice(world: Experiment) -> None:
    mine = replace(world, grid=(Block("method", method="ewc", values=(1.0,)),))
    assert comparison_of(mine)[0].grid == mine.grid


@pytest.mark.parametrize(
    "block",
    [
        {"case": "method", "values": (1.0,)},
        {"case": "method", "method": "ewc", "values": (1.0,), "penalties": (1.0,)},
        {"case": "alignment-loss", "penalties": (1.0,), "values": (1.0,)},
        {"case": "alignment-loss", "penalties": (1.0,), "method": "ewc"},
        {"case": "dial"},
        {"case": "dial", "values": (0.5, 1.5)},
        {"case": "dial", "values": (0.5,), "penalties": (1.0,)},
    ],
)
def test_a_mixed_up_block_is_refused(block: dict[str, object]) -> None:
    with pytest.raises(UserError, match="grid"):
        Block(**block)  # type: ignore[arg-type]


def test_a_method_alone_is_tried_at_five_values() -> None:
    assert Block("method", method="ewc").values == METHODS["ewc"].grid


def test_a_comparison_is_made_at_equal_rows_and_told(world: Experiment, tmp_path: Path) -> None:
    grid = (
        Block("alignment-loss", (0.0, 1.0)),
        Block("alignment-parameter", penalties=(0.1,)),
        Block("method", method="wise-ft", values=(0.5,)),
        Block("method", method="safe-lora", values=(1.0,)),
        Block("method", method="lazy-safety-alignment", values=(1.0,)),
        Block("method", method="case-one-by-share", values=(3.0,)),
        Block("method", method="kl-anchor", values=(1.0,)),
    )
    (tmp_path / "e.yaml").write_text(to_yaml(replace(world, grid=grid)))
    command = [sys.executable, "-m", "trimtab.cli"]
    compared = subprocess.run(
        [*command, "compare", str(tmp_path / "e.yaml"), "--out", str(tmp_path / "out")],
        capture_output=True,
        text=True,
    )
    assert compared.returncode == 0, compared.stderr
    assert "SafeLoRA" in compared.stdout
    points = [point for point in read_points(tmp_path / "out") if point.method is not ALIGNED]
    assert len(points) == 2 * 8
    # Rows have one length but for the end of a prompt: 4 steps of 16 rows of 4 tokens each.
    assert len({round(point.train_tokens, -2) for point in points}) == 1
    plain = {point.seed: point for point in points if point.spec.is_plain}
    for point in points:
        if point.method.name in ("wise-ft", "safe-lora"):
            assert point.train_tokens == plain[point.seed].train_tokens
            assert point.distance != plain[point.seed].distance
    suggested = subprocess.run(
        [*command, "suggest", str(tmp_path / "out"), "--budget", "10"],
        capture_output=True,
        text=True,
    )
    assert suggested.returncode == 0, suggested.stderr
    assert ": within" in suggested.stdout
    none = subprocess.run(
        [*command, "suggest", str(tmp_path / "out"), "--budget", "-10"],
        capture_output=True,
        text=True,
    )
    assert "No setting is within it" in none.stdout


def test_methods_of_several_tasks_are_told_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (ROOT / "docs/comparison/worlds/world-36/points.jsonl").read_text().splitlines()
    others = [json.dumps(json.loads(line) | {"task": "other"}) for line in lines]
    (tmp_path / "points.jsonl").write_text("\n".join(lines) + "\n")
    _print_methods(tmp_path)
    once = capsys.readouterr().out
    assert "Task " not in once
    (tmp_path / "points.jsonl").write_text("\n".join([*lines, *others]) + "\n")
    _print_methods(tmp_path)
    both = capsys.readouterr().out
    assert both.count("hypervolume") == 2
    assert "Task shared, safety data near:" in both
    assert "Task other, safety data near:" in both
