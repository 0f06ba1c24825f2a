"""Facts about the grid: every training has a folder of its own."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.config.data_source import DataSource
from trimtab.config.experiment import Block, Dial, Experiment, Measuring, Training
from trimtab.config.grid import is_more_of, only_model, plan_of
from trimtab.errors import UserError

names = st.text(st.sampled_from("ab-_ .+/é"), min_size=1, max_size=6).filter(str.strip)


def experiment(safety: list[str], task: list[str], **more: object) -> Experiment:
    return Experiment(
        model="m",
        task=dict.fromkeys(task, "t.jsonl"),  # type: ignore[misc]
        safety=dict.fromkeys(safety, "s.jsonl"),  # type: ignore[misc]
        grid=(
            Block("alignment-loss", penalties=(0.1, 0.1 + 1e-15, 1.0)),
            Block("alignment-loss", budgets=(0.1,)),
            Block("alignment-parameter", radii=(0.1,)),
            Block("method", method="ewc", values=(0.1,)),
            Block("dial", values=(0.1, 0.2)),
        ),
        dial=Dial(),
        seeds=(0, 1),
        **more,  # type: ignore[arg-type]
    )


@given(
    st.lists(names, min_size=1, max_size=3, unique=True),
    st.lists(names, min_size=1, max_size=3, unique=True),
)
def test_no_two_trainings_share_a_folder(safety: list[str], task: list[str]) -> None:
    runs = plan_of(experiment(safety, task)).runs
    folders = [run.name for run in runs]
    assert len(set(folders)) == len(folders)
    for folder in folders:
        assert PurePosixPath(folder).name == folder
        assert re.fullmatch(r"[\w.+-]+", folder)


def test_a_run_has_a_model_for_each_setting_of_a_dial_and_each_post_hoc_share() -> None:
    of_models = replace(
        experiment(["near", "far"], ["code"]),
        grid=(
            Block("alignment-loss", penalties=(0.0, 1.0)),
            Block("dial", values=(0.1, 0.2, 0.9)),
            Block("method", method="wise-ft", values=(0.3, 0.6)),
        ),
        seeds=(0,),
    )
    counts = {run.training.method.name: 0 for run in plan_of(of_models).runs}
    for run in plan_of(of_models).runs:
        assert sorted(map(str, run.specs)) == sorted(str(s) for m in run.by_model for s in m)
        counts[run.training.method.name] += len(run.by_model)
    # Two shares of the plain model, and three settings of a dial, are told of either proxy.
    assert counts == {"plain": 1 + 4, "alignment-loss": 2, "dial": 6}


def test_names_that_join_to_the_same_text_are_told_apart() -> None:
    runs = plan_of(experiment(["near", "near-small"], ["small-code", "code"])).runs
    assert len({run.name for run in runs}) == len(runs)


def test_more_is_more_values_and_seeds_of_the_same_dial_and_landscape() -> None:
    before = experiment(["near", "far"], ["chat", "code"], measure=Measuring(landscape_rows=9))
    more_values = Block("alignment-loss", penalties=(3.0,))
    assert is_more_of(replace(before, seeds=(0, 1, 2), grid=(*before.grid, more_values)), before)
    assert is_more_of(before, before)
    assert not is_more_of(replace(before, grid=before.grid[1:]), before)
    assert not is_more_of(replace(before, seeds=(0,)), before)
    assert not is_more_of(replace(before, seeds=(1, 0)), before)  # aligned with another seed
    turned = replace(before.grid[-1], values=(0.1, 0.2, 0.3))
    assert not is_more_of(replace(before, grid=(*before.grid[:-1], turned)), before)
    only_chat = replace(before.grid[2], tasks=("chat",))
    fewer = replace(before, grid=(*before.grid[:2], only_chat, *before.grid[3:]))
    assert not is_more_of(before, fewer)  # whose landscape knows one task
    assert is_more_of(replace(before, measure=Measuring()), replace(fewer, measure=Measuring()))


@pytest.mark.parametrize("aligned", [False, True])
def test_one_model_of_a_grid_is_made_as_the_whole_grid_makes_it(aligned: bool) -> None:
    whole = experiment(["s", "a b"], ["t", "u"])
    if aligned:
        whole = replace(whole, align=Training(), original=DataSource("o.jsonl"), seeds=(3, 1))
    runs = plan_of(whole).runs
    for run in runs:
        for model in run.models:
            if aligned and run.training.seed != 3:
                with pytest.raises(UserError, match="starts from what seed 3 aligns"):
                    only_model(whole, model)
                continue
            alone = only_model(whole, model)
            (made,) = plan_of(alone).runs
            assert model in made.models
            assert made.training == run.training
            assert set(made.specs) <= set(run.specs)
            assert alone.keeps_models


def test_plain_fine_tuning_alone_is_one_point() -> None:
    whole = replace(experiment(["s", "p"], ["t"]), grid=(Block("alignment-loss", (0.0, 1.0)),))
    (made,) = plan_of(only_model(whole, "plain--t--seed-0")).runs
    assert len(made.specs) == 1
    with pytest.raises(UserError, match=r"makes no model 'plain--t'.* plain--t--seed-"):
        only_model(whole, "plain--t")


def test_an_unknown_method_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match="Did you mean safegrad"):
        Block("method", method="safe-grad", values=(1.0,))
