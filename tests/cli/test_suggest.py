"""Facts about what 'trimtab suggest' prints, on results that lie in the repository."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.report.reported_points import point
from trimtab.analysis.groups import all_settings
from trimtab.cli import app
from trimtab.cli.answer import command_to_make, print_settings_to_choose
from trimtab.config.experiment import Block, Dial
from trimtab.config.grid import only_model, plan_of
from trimtab.config.loading import Loading
from trimtab.config.yaml_io import read_experiment

REPRODUCTION = Path(__file__).parents[2] / "docs/reproduction"


def printed(folder: str, *options: str) -> str:
    result = CliRunner().invoke(app, ["suggest", str(REPRODUCTION / folder), *options])
    assert result.exit_code == 0, result.output
    return result.output


def test_a_model_trained_without_safety_rows_is_suggested_for_every_safety_data() -> None:
    output = printed("smollm2-safety", "--budget", "0.05")
    of_alpaca = [part for part in output.split("\n\n") if part.startswith("Task alpaca")]
    assert len(of_alpaca) == 3
    assert all("\n  Case II (parameters, by ε), ε = 1\n" in part for part in of_alpaca)
    assert output.count("No setting is within it") == 1  # Case II was not trained on the other task


def test_the_task_loss_of_plain_fine_tuning_stands_beside_that_of_the_setting() -> None:
    lines = printed("smollm2-safety", "--budget", "0.05").splitlines()
    places = [n for n, line in enumerate(lines) if line.startswith("  task loss")]
    assert len(places) == 4
    assert all(lines[n + 1].startswith("    plain fine-tuning: −0.1") for n in places)
    assert all("; this lies above it by 0.0" in lines[n + 1] for n in places)


def test_a_conservative_limit_is_told_beside_a_safety_loss_that_is_limited() -> None:
    limit = "    if no row rises by more than 1 nat per token, at most "
    output = printed("smollm2-safety", "--budget", "0.1")
    assert output.count(limit) == output.count("safety loss over the start's on") == 4
    assert "certif" not in output
    assert limit not in printed("smollm2-safety", "--min-refused", "0.8")


def test_a_limit_is_within_beyond_or_undecided() -> None:
    output = printed("smollm2-safety", "--budget", "0.05", "--min-refused", "0.8")
    verdicts = {line.rpartition("]: ")[2] for line in output.splitlines() if "]: " in line}
    assert verdicts == {"within", "beyond", "undecided"}
    assert "kept" not in output
    assert "No setting is within them" in output


def test_what_is_not_kept_can_be_made() -> None:
    output = printed("smollm2", "--budget", "0.05")
    file = REPRODUCTION / "smollm2/experiment.yaml"
    start = f"  to make it:\n    trimtab sweep {file} --data-root DATA \\\n        --only "
    model = output.split(start)[1].split("\n")[0]
    recorded = read_experiment(file)
    (run,) = plan_of(only_model(recorded, model.removesuffix(" --out chosen"))).runs
    assert run.training.label == "λ = 1"


def test_the_command_under_a_sweep_s_settings_makes_the_knee(
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = REPRODUCTION / "smollm2"
    recorded = read_experiment(folder / "experiment.yaml")
    print_settings_to_choose(recorded, folder)
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    knees = [line for line in lines if "← knee" in line]
    places = [n for n, line in enumerate(lines) if line == "To make the model at the knee:"]
    assert len(knees) == len(places) > 1
    for knee, place in zip(knees, places, strict=True):
        assert lines[place + 1].startswith(f"trimtab sweep {folder / 'experiment.yaml'}")
        model = lines[place + 2].removeprefix("--only ").removesuffix(" --out chosen")
        (run,) = plan_of(only_model(recorded, model)).runs
        assert run.training.label in knee


def test_where_phrases_judged_a_limit_on_harm_is_told_what_to_give_instead() -> None:
    folder = str(REPRODUCTION / "smollm2-safety")
    result = CliRunner().invoke(app, ["suggest", folder, "--max-harmful", "0.1"])
    assert result.exit_code == 2
    assert "Give --min-refused instead of --max-harmful" in result.output


def test_how_to_make_a_setting_of_a_sweep_s_dial(world: Path, tmp_path: Path) -> None:
    """Of the ends that the sweep kept, or of these trained once more by its own experiment."""
    recorded = read_experiment(world / "experiment.yaml")
    dial = replace(recorded, dial=Dial(), grid=(Block("dial", values=(0.0, 0.25)),))
    (run,) = plan_of(dial).runs
    (setting,) = all_settings([replace(point("dial"), spec=run.specs[1])])
    words = command_to_make(setting, dial, tmp_path)
    assert f"--only {run.name} --out trained" in words[1]
    chosen = "--alpha 0.25 --out chosen"
    assert words[-1] == f"trimtab dial set trained/models/{run.name} {chosen}"
    ends = tmp_path / "models" / run.name
    ends.mkdir(parents=True)
    assert command_to_make(setting, dial, tmp_path) == (f"trimtab dial set {ends} {chosen}",)
    trained_alone = tmp_path / "alone"
    (trained_alone / "dial").mkdir(parents=True)
    words = command_to_make(setting, replace(dial, grid=()), trained_alone)
    assert words == (f"trimtab dial set {trained_alone} {chosen}",)


def test_how_to_make_a_setting_of_a_method_after_training(world: Path, tmp_path: Path) -> None:
    """Of the plain model that the sweep kept, or of this trained once more."""
    recorded = read_experiment(world / "experiment.yaml")
    block = Block("method", method="wise-ft", values=(0.25,))
    going_back = replace(recorded, model="base", align=recorded.train, grid=(block,))
    (run,) = plan_of(going_back).runs
    (setting,) = all_settings([replace(point("wise-ft"), spec=run.specs[0])])

    def repair(folder: Path | str) -> tuple[str, ...]:
        return (
            f"trimtab repair wise-ft --model {folder}/models/{run.name}",
            f"--aligned {folder}/aligned",
            "--strength=0.25 --out chosen",
        )

    words = command_to_make(setting, going_back, tmp_path)
    assert f"--only {run.name} --out trained" in words[1]
    assert parts(words[2:]) == repair("trained")
    (tmp_path / "models" / run.name).mkdir(parents=True)
    assert parts(command_to_make(setting, going_back, tmp_path)) == repair(tmp_path)
    unaligned = replace(going_back, align=None)
    assert parts(command_to_make(setting, unaligned, tmp_path))[1] == "--aligned base"


def parts(lines: Sequence[str]) -> tuple[str, ...]:
    """Of a command over several lines."""
    assert all(line.endswith(" \\") for line in lines[:-1])
    return tuple(line.removesuffix("\\").strip() for line in lines)


@pytest.mark.parametrize(("seed", "commands"), [(0, 1), (1, 0)])
def test_no_command_where_repair_would_draw_otherwise(
    world: Path, tmp_path: Path, seed: int, commands: int
) -> None:
    recorded = read_experiment(world / "experiment.yaml")
    block = Block("method", method="resta", values=(0.2,))
    drawn = replace(recorded, align=recorded.train, grid=(block,), seeds=(seed,))
    (run,) = plan_of(drawn).runs
    (tmp_path / "models" / run.name).mkdir(parents=True)
    (setting,) = all_settings([replace(point("resta"), spec=run.specs[0])])
    printed = " ".join(command_to_make(setting, drawn, tmp_path))
    assert printed.count("trimtab repair resta") == commands


def test_no_command_where_repair_would_load_the_models_otherwise(
    world: Path, tmp_path: Path
) -> None:
    recorded = read_experiment(world / "experiment.yaml")
    block = Block("method", method="wise-ft", values=(0.2,))
    loaded = replace(recorded, load=Loading(attention="eager"), grid=(block,))
    (run,) = plan_of(loaded).runs
    (setting,) = all_settings([replace(point("wise-ft"), spec=run.specs[0])])
    assert command_to_make(setting, loaded, tmp_path) == ()
