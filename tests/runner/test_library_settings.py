"""Facts about settings of TRL and PEFT in an experiment: checked first, and then at work."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftConfig
from safetensors.torch import load_file

from trimtab.config.experiment import Block, Experiment, Training
from trimtab.config.yaml_io import read_experiment
from trimtab.data.splits import read_roles
from trimtab.errors import UserError
from trimtab.runner.library_settings import check_library_settings
from trimtab.runner.sweep import SilentWatcher, left_of, sweep

MISSING = next(name for name in ("trackio", "mlflow", "wandb") if find_spec(name) is None)


@pytest.fixture
def experiment(world: Path) -> Experiment:
    world_experiment = read_experiment(world / "experiment.yaml")
    return replace(world_experiment, grid=(Block("alignment-loss", (1.0,)),), align=None)


def trained(experiment: Experiment, folder: Path, **settings: Any) -> dict[str, torch.Tensor]:
    changed = replace(experiment, train=replace(experiment.train, **settings), keep_models=True)
    sweep(changed, folder, SilentWatcher())
    (model,) = (folder / "models").iterdir()
    (weights,) = model.glob("*.safetensors")
    return load_file(weights)


def test_a_setting_of_trl_changes_the_model(experiment: Experiment, tmp_path: Path) -> None:
    plain = trained(experiment, tmp_path / "plain")
    empty = trained(experiment, tmp_path / "empty", sft={"weight_decay": 0})
    decayed = trained(experiment, tmp_path / "decayed", sft={"weight_decay": 10.0})
    assert all(torch.equal(plain[name], empty[name]) for name in plain)
    assert any(not torch.equal(plain[name], decayed[name]) for name in plain)


def test_a_setting_of_peft_changes_the_adapter(experiment: Experiment, tmp_path: Path) -> None:
    lora = {"target_modules": ["q_proj"], "r": 2}
    weights = trained(experiment, tmp_path, lora=lora)
    assert all("q_proj" in name for name in weights)
    (model,) = (tmp_path / "models").iterdir()
    assert PeftConfig.from_pretrained(str(model)).to_dict()["r"] == 2


def test_epochs_are_passes_over_the_task_rows(experiment: Experiment, tmp_path: Path) -> None:
    from trimtab.runner.cost import estimate_cost

    (rows,) = {len(split.train) for split in read_roles(experiment).task.values()}
    steps = -(-rows // 4)
    by_epochs = replace(experiment, train=Training(batch_size=4, epochs=1))
    by_steps = replace(experiment, train=Training(batch_size=4, steps=steps))
    costs = [
        estimate_cost(
            budgeted, read_roles(budgeted), left_of(budgeted, tmp_path / "none")[1]
        ).train_tokens
        for budgeted in (by_epochs, by_steps)
    ]
    assert costs[0] == costs[1]
    lengths: list[int] = []

    class Counting(SilentWatcher):
        def training(self, name: str, steps: int) -> None:
            lengths.append(steps)

    sweep(by_epochs, tmp_path / "out", Counting())
    assert lengths == [steps]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sft": {"wieght_decay": 1}}, "train.sft.wieght_decay is no field of trl.SFTConfig. Did"),
        ({"sft": {"optim": "sgdd"}}, "train.sft.optim: sgdd is not a valid OptimizerNames"),
        ({"sft": {"report_to": "nobody"}}, "train.sft.report_to: nobody is not supported"),
        ({"sft": {"report_to": MISSING}}, "train.sft.report_to: "),
        ({"sft": {"weight_decay": 0.1, "optim": "sgdd"}}, "train.sft.optim: sgdd is not a valid"),
        (
            {"sft": {"lr_scheduler_type": "sideways"}},
            "train.sft.lr_scheduler_type: sideways is",
        ),
        (
            {"sft": {"lr_scheduler_type": "cosine_with_min_lr"}},
            "train.sft.lr_scheduler_type: One of min_lr or min_lr_rate should be set",
        ),
        (
            {"sft": {"lr_scheduler_kwargs": {"foo": 1}}},
            "train.sft.lr_scheduler_kwargs: get_linear_schedule_with_warmup() got an unexpected",
        ),
        ({"sft": {"optim": "lomo"}}, "train.sft.optim: "),
        (
            {"lora_rank": 2, "lora": {"alora_invocation_tokens": [5]}},
            "train.lora.alora_invocation_tokens cannot be set: an adapter that acts from some",
        ),
        ({"lora_rank": 2, "lora": {"target_modules": ["nope"]}}, "train.lora.target_modules: "),
        ({"lora_rank": 2, "lora": {"target_modules": ["q_proj"], "rang": 2}}, "train.lora.rang is"),
        (
            {"lora_rank": 2, "lora": {"target_modules": "q_proj,lm_head"}},
            "train.lora: the adapter reaches the model's head",
        ),
        (
            {"lora_rank": 2, "lora": {"target_modules": "q_proj", "lora_bias": True}},
            "train.lora: lora_bias adds to the bias of ",
        ),
    ],
    ids=str,
)
def test_what_a_library_refuses_is_one_line_before_any_training(
    settings: dict[str, Any], message: str, experiment: Experiment, tmp_path: Path
) -> None:
    refused = replace(experiment, train=replace(experiment.train, **settings))
    with pytest.raises(UserError) as raised:
        sweep(refused, tmp_path / "out", SilentWatcher())
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError):
        check_library_settings(
            replace(experiment, original=experiment.original, align=refused.train)
        )


def test_what_trl_refuses_of_a_model_is_one_line(experiment: Experiment, tmp_path: Path) -> None:
    no_experts = replace(experiment.train, sft={"router_aux_loss_coef": 0.1})
    with pytest.raises(UserError) as raised:
        sweep(replace(experiment, train=no_experts), tmp_path / "out", SilentWatcher())
    told = str(raised.value)
    assert told.startswith("TRL takes no training with sft: {'router_aux_loss_coef': 0.1} (")
    assert "Mixture-of-Experts" in told
    assert "\n" not in told
