"""Facts about a base under many adapters: it is in memory once, and no training leaves a mark."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.optim import Optimizer
from transformers import LlamaConfig, LlamaForCausalLM, TrainerCallback

from tests.live_tensors import live_bytes
from tests.small_worlds import small_world
from tests.watchers import Watcher
from trimtab.config.experiment import Block, Dial, Experiment, Training
from trimtab.config.grid import plan_of
from trimtab.data.splits import read_roles
from trimtab.measure.shared_weights import sharing_all, sharing_frozen, sharing_start
from trimtab.models import load_tokenizer
from trimtab.runner import runner as runner_module
from trimtab.runner import trainings as trainings_module
from trimtab.runner.runner import Runner
from trimtab.train.baselines.resta import RESTA
from trimtab.train.settings import leaves_base_alone, lora_config

pytestmark = pytest.mark.usefixtures("quiet")

LORA = Training(steps=3, batch_size=8, learning_rate=2e-3, lora_rank=4)

GRIDS: dict[str, tuple[Block, ...]] = {
    "case I": (Block("alignment-loss", (0.0, 1.0)),),
    "case II": (Block("alignment-parameter", radii=(0.2,)),),
    "budget": (Block("alignment-loss", budgets=(0.05, 0.1)),),
    "dial": (Block("dial", values=(0.0, 1.0)),),
    "wise-ft": (Block("method", method="wise-ft", values=(0.3, 0.7)),),
    "safe-lora": (Block("method", method="safe-lora", values=(1.0,)),),
    "resta": (Block("method", method="resta", values=(0.5,)),),
    "seal": (Block("method", method="seal", values=(0.8,)),),
}


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    return small_world(
        tmp_path_factory.mktemp("world"),
        200,
        align=Training(steps=2, batch_size=8, learning_rate=2e-3),
        train=LORA,
        dial=Dial(),
        grid=GRIDS["case I"],
    )


def opened(experiment: Experiment, folder: Path) -> Runner:
    return Runner(experiment, read_roles(experiment), folder, Watcher())


def marks(model: nn.Module) -> dict[str, Any]:
    """Everything of a model that a training may change, by where it is."""
    state: dict[str, Any] = {"config": str(getattr(model, "config", None))}
    state["generation"] = str(getattr(model, "generation_config", None))
    for name, part in model.named_modules():
        flags = {key for key in vars(part) if not key.startswith("_")}
        hooks = [
            len(hooks_of_kind)
            for key, hooks_of_kind in vars(part).items()
            if key.endswith("_hooks")
        ]
        checkpointing = getattr(part, "gradient_checkpointing", None)
        state[name] = (type(part), part.training, sorted(flags), hooks, checkpointing)
    for name, weight in model.named_parameters():
        digest = hashlib.sha256(weight.detach().view(torch.uint8).numpy().tobytes()).hexdigest()
        state[f"{name}:"] = (digest, weight.requires_grad, weight.grad is None, weight.data_ptr())
    return state


@pytest.mark.parametrize("target", ["response", "kl"])
@pytest.mark.parametrize("kind", list(GRIDS))
def test_the_aligned_model_is_the_same_after_every_training(
    experiment: Experiment, tmp_path: Path, kind: str, target: str
) -> None:
    training = replace(LORA, safety_target=target, gradient_checkpointing=target == "kl")
    adapted = replace(experiment, grid=GRIDS[kind], train=training)
    runner = opened(adapted, tmp_path)
    before = marks(runner.aligned)
    for run in plan_of(adapted).runs:
        points = runner.points_of(run)
        assert all(point.distance > 0 for point in points)
        assert marks(runner.aligned) == before


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_training_that_breaks_off_leaves_no_mark(
    experiment: Experiment,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: type[BaseException],
) -> None:
    class BreaksOff(TrainerCallback):
        def __init__(self, *args: object) -> None:
            pass

        def on_step_end(self, *args: Any, **handles: Any) -> None:
            raise error

    runner = opened(experiment, tmp_path)
    before = marks(runner.aligned)
    monkeypatch.setattr(trainings_module, "_Progress", BreaksOff)
    with pytest.raises(error):
        runner.points_of(plan_of(experiment).runs[0])
    assert marks(runner.aligned) == before


@pytest.mark.parametrize(
    "lora", [{"bias": "all"}, {"use_dora": True}, {"modules_to_save": ["lm_head"]}]
)
def test_the_aligned_model_is_the_same_whatever_the_adapter_is(
    experiment: Experiment, tmp_path: Path, lora: dict[str, Any]
) -> None:
    adapted = replace(experiment, train=replace(LORA, lora=lora))
    runner = opened(adapted, tmp_path)
    before = marks(runner.aligned)
    runner.points_of(plan_of(adapted).runs[0])
    assert marks(runner.aligned) == before


@pytest.mark.parametrize(
    ("lora", "shares"),
    [
        ({}, True),
        ({"modules_to_save": ["lm_head"]}, True),
        ({"use_dora": True}, True),
        ({"bias": "lora_only"}, False),
    ],
)
def test_a_base_is_shared_unless_training_writes_into_it(
    lora: dict[str, Any], shares: bool
) -> None:
    assert leaves_base_alone(lora_config(replace(LORA, lora=lora))) == shares
    assert not leaves_base_alone(None)


def test_what_is_drawn_after_training_is_drawn_by_each_seed_anew(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds = []
    applied = RESTA.apply

    def remembering(self: RESTA, *models: Any) -> Any:
        seeds.append(self.seed)
        return applied(self, *models)

    monkeypatch.setattr(RESTA, "apply", remembering)
    twice = replace(experiment, grid=GRIDS["resta"], seeds=(0, 7))
    runner = opened(twice, tmp_path)
    for run in plan_of(twice).runs:
        runner.points_of(run)
    assert seeds == [0, 7]


@pytest.mark.parametrize("kind", ["case I", "case II", "dial"])
def test_points_are_those_of_a_copied_base(
    experiment: Experiment, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(folder: Path) -> list[object]:
        runner = opened(variant, folder)
        points = [point for run in plan_of(variant).runs for point in runner.points_of(run)]
        return [replace(point, wall_seconds=0.0) for point in points]

    variant = replace(experiment, grid=GRIDS[kind])
    shared = measured(tmp_path / "shared")
    monkeypatch.setattr(trainings_module, "sharing_all", deepcopy)
    assert measured(tmp_path / "copied") == shared


def tiny_config(**settings: Any) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=8,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        **settings,
    )


def test_tied_weights_stay_tied_and_flags_are_the_copys_own() -> None:
    model = LlamaForCausalLM(tiny_config(tie_word_embeddings=True))
    copy = sharing_all(model)
    assert copy.lm_head.weight is copy.model.embed_tokens.weight
    copy.requires_grad_(False)
    copy.config.use_cache = False
    assert all(weight.requires_grad for weight in model.parameters())
    assert model.config.use_cache
    tuned = sharing_frozen(copy)
    assert tuned.lm_head.weight is copy.lm_head.weight


@pytest.mark.parametrize("is_frozen", [True, False])
def test_what_is_edited_shares_only_weights_that_are_the_starts(is_frozen: bool) -> None:
    """An adapter that was read from a file is frozen, and so are the weights beside it."""
    start = LlamaForCausalLM(tiny_config())
    lora = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"])
    tuned = get_peft_model(deepcopy(start), lora)
    norm, moved = "base_model.model.model.norm.weight", "lora_B.default"
    with torch.no_grad():
        tuned.get_parameter(norm).add_(1)
    tuned.requires_grad_(not is_frozen)
    if not is_frozen:
        tuned.get_base_model().model.embed_tokens.requires_grad_(False)
    copy = dict(sharing_start(tuned, start).named_parameters(remove_duplicate=False))
    shared = {
        name
        for name, weight in tuned.named_parameters(remove_duplicate=False)
        if copy[name] is weight
    }
    assert not any(moved in name or "modules_to_save" in name for name in shared)
    assert norm not in shared
    assert "base_model.model.model.embed_tokens.weight" in shared
    assert len(shared) == (len(list(start.parameters())) - 1 if is_frozen else 1)


@contextmanager
def watched_at(monkeypatch: pytest.MonkeyPatch, place: Any, name: str) -> Iterator[list[int]]:
    """The live bytes whenever a function is called."""
    live: list[int] = []
    real: Callable[..., Any] = getattr(place, name)

    def watched(*args: Any, **settings: Any) -> Any:
        live.append(live_bytes())
        return real(*args, **settings)

    with monkeypatch.context() as patched:
        patched.setattr(place, name, watched)
        yield live


@pytest.mark.parametrize(
    ("kind", "target"), [("case I", "kl"), ("case II", "response"), ("dial", "response")]
)
def test_the_base_is_in_memory_once(
    experiment: Experiment,
    tmp_path: Path,
    kind: str,
    target: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokenizer = load_tokenizer(experiment.model)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=512,
        intermediate_size=1024,
        num_hidden_layers=3,
        num_attention_heads=4,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "wide")
    tokenizer.save_pretrained(tmp_path / "wide")
    training = replace(LORA, lora_rank=1, safety_target=target, steps=2)
    wide = replace(
        experiment, model=str(tmp_path / "wide"), align=None, train=training, grid=GRIDS[kind]
    )
    elsewhere = live_bytes()
    runner = opened(wide, tmp_path / "out")
    base = sum(weight.nbytes for weight in runner.aligned.parameters())
    with (
        watched_at(monkeypatch, trainings_module._Progress, "on_step_end") as training_bytes,
        watched_at(monkeypatch, runner.evaluator, "_loss") as measuring_bytes,
    ):
        for run in plan_of(wide).runs:
            runner.points_of(run)
    assert len(training_bytes) >= 2
    assert len(measuring_bytes) >= 3
    assert max(training_bytes + measuring_bytes) - elsewhere < 1.3 * base


@pytest.mark.parametrize("kind", ["case I", "diverges", "dial", "wise-ft"])
@pytest.mark.parametrize("rank", [None, 4])
def test_nothing_of_a_run_is_alive_after_it(
    experiment: Experiment,
    tmp_path: Path,
    kind: str,
    rank: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nor its trainer and the optimizer's state while its model is measured: garbage counts."""
    grid = GRIDS.get(kind, (Block("alignment-loss", (1e38, 1.0)),))
    variant = replace(experiment, grid=grid, train=replace(LORA, lora_rank=rank), seeds=(0, 1))
    runner = opened(variant, tmp_path)
    before = live_bytes()
    after, at_once = [], []

    def measured(*args: Any) -> Any:
        at_once.append(sum(isinstance(thing, Optimizer) for thing in gc.get_objects()))
        return real(*args)

    real = runner.evaluator._loss
    monkeypatch.setattr(runner.evaluator, "_loss", measured)
    for run in plan_of(variant).runs:
        runner.tried(run)
        after.append(live_bytes(collected=False) - before)
    assert len(after) >= 2
    assert max(after) < 1000
    assert not any(at_once)


def test_what_a_run_freed_goes_back_to_the_system(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    monkeypatch.setattr(runner_module, "_give_back_memory", lambda: calls.append(1))
    runner = opened(experiment, tmp_path)
    runs = plan_of(experiment).runs
    for run in runs:
        runner.tried(run)
    assert len(calls) == len(runs)
