"""Facts about trainings as users set them up: their optimizer, their evaluations, their rows."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.utils import DistributedType
from datasets import Features, IterableDataset, List, Value
from peft import AdaLoraConfig, LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import TrainerCallback
from trl.trainer import sft_trainer

from tests.train import tiny
from trimtab import (
    AlignmentLossConstraint,
    AlignmentParameterConstraint,
    Budget,
    DialObjective,
    SafetyAwareSFTTrainer,
    UserError,
)
from trimtab.measure.distance import distance
from trimtab.models import load_model, merged_model
from trimtab.train import trainer as trainer_module
from trimtab.train.baselines.early_stopping import EarlyStopping
from trimtab.train.baselines.gradient_surgery import GradientSurgery
from trimtab.train.baselines.l2_sp import L2SP
from trimtab.train.baselines.mixing import Mixing
from trimtab.train.batches import sequences_per_row
from trimtab.train.objectives.base import Objective
from trimtab.train.objectives.endpoints import DenseEndpoints, new_endpoints
from trimtab.train.trainer import STATE_FILE


@pytest.mark.parametrize("objective", [DialObjective(), Budget(budget=1.0)], ids=["dial", "budget"])
def test_an_optimizer_over_other_weights_than_those_moved_is_refused(
    objective: Objective, tmp_path: Path
) -> None:
    model, _ = tiny.tiny_llama(tmp_path / "model")
    with pytest.raises(UserError, match="the optimizer given does not hold"):
        tiny.trainer_of(objective, tmp_path, optimizer=torch.optim.AdamW(model.parameters()))


class Settings(TrainerCallback):
    """The dial's setting as each evaluation's forward passes meet it."""

    def __init__(self) -> None:
        self.seen: set[float] = set()

    def watch(self, trainer: SafetyAwareSFTTrainer) -> None:
        objective = trainer.objective
        assert isinstance(objective, DialObjective)
        set_alpha = objective.endpoints.set_alpha
        self.alpha = 0.0

        def remembered(alpha: float) -> None:
            self.alpha = alpha
            set_alpha(alpha)

        objective.endpoints.set_alpha = remembered  # type: ignore[method-assign]

        def look(module: nn.Module, *_: Any) -> None:
            if not module.training:
                self.seen.add(self.alpha)

        trainer.accelerator.unwrap_model(trainer.model).register_forward_pre_hook(look)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_a_dial_is_evaluated_at_one_setting_and_goes_on_at_its_own(
    lora: bool, tmp_path: Path
) -> None:
    every_step = {"eval_strategy": "steps", "eval_steps": 1}
    evaluated = tiny.trainer_of(DialObjective(), tmp_path, lora, **every_step)
    settings = Settings()
    settings.watch(evaluated)
    evaluated.train()
    assert settings.seen == {0.5}
    alone = tiny.trainer_of(DialObjective(), tmp_path, lora)
    alone.train()
    tiny.assert_same(tiny.weights(evaluated), tiny.weights(alone), by=0.0)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_a_trained_dial_is_evaluated_where_it_is_set_and_stays_there(
    lora: bool, tmp_path: Path
) -> None:
    trainer = tiny.trainer_of(DialObjective(), tmp_path, lora)
    trainer.train()
    settings = Settings()
    settings.watch(trainer)
    assert isinstance(trainer.objective, DialObjective)
    trainer.objective.endpoints.set_alpha(0.9)
    trainer.evaluate(trainer.train_dataset)
    assert settings.seen == {0.9}
    assert settings.alpha == 0.9


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_a_budget_s_model_is_not_moved_by_evaluating_it(lora: bool, tmp_path: Path) -> None:
    trainer = tiny.trainer_of(Budget(budget=9.0), tmp_path, lora)
    trainer.train()
    settled = {name: weight.clone() for name, weight in trainer.model.named_parameters()}
    unmoved: list[bool] = []

    def look(*_: Any) -> None:
        weights = trainer.model.named_parameters()
        unmoved.append(all(torch.equal(weight, settled[name]) for name, weight in weights))

    trainer.accelerator.unwrap_model(trainer.model).register_forward_pre_hook(look)
    for _ in range(2):
        trainer.evaluate(trainer.train_dataset)
    assert unmoved
    assert all(unmoved)
    tiny.assert_same(dict(trainer.model.named_parameters()), settled, by=0.0)


def test_a_dial_s_model_stands_at_its_middle_at_the_end(tmp_path: Path) -> None:
    trainer = tiny.trainer_of(DialObjective(), tmp_path)
    trainer.train()
    assert isinstance(trainer.objective, DialObjective)
    ends = trainer.objective.endpoints
    assert isinstance(ends, DenseEndpoints)
    for name, weight in trainer.model.named_parameters():
        middle = torch.lerp(
            ends.ends["safe"].get_parameter(name), ends.ends["task"].get_parameter(name), 0.5
        )
        torch.testing.assert_close(weight, middle)


def test_the_reference_of_all_weights_computes_as_the_model_does(tmp_path: Path) -> None:
    objective = AlignmentLossConstraint(penalty=1.0, target="kl")
    trainer = tiny.trainer_of(objective, tmp_path, bf16=True, max_steps=1)
    assert trainer.reference is not None
    assert trainer.reference.copy is not None
    seen: list[bool] = []

    def look(*_: Any) -> None:
        seen.append(torch.is_autocast_enabled("cpu"))

    inner: Any = trainer.reference.copy
    inner.model.register_forward_pre_hook(look)
    trainer.train()
    assert seen
    assert all(seen)
    # At the first step the two models are one, and so is what they compute.
    assert trainer.state.log_history[0].get("safety_loss", 0.0) == 0.0


@pytest.mark.parametrize("max_grad_norm", [0.0, -1.0])
def test_what_is_not_clipped_is_adjusted_all_the_same(max_grad_norm: float, tmp_path: Path) -> None:
    def moved(objective: Objective) -> float:
        trainer = tiny.trainer_of(objective, tmp_path, optim="sgd", max_grad_norm=max_grad_norm)
        trainer.train()
        return distance(trainer.model, tiny.tiny_llama(tmp_path / "model")[0])

    assert moved(L2SP(penalty=50.0)) < 0.9 * moved(L2SP(penalty=1e-6))


@pytest.mark.parametrize("max_grad_norm", [0.0, 1.0])
def test_a_gradient_that_is_adjusted_is_unscaled_once_a_step(
    max_grad_norm: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice is an error under fp16."""
    trainer = tiny.trainer_of(L2SP(penalty=1.0), tmp_path, max_grad_norm=max_grad_norm)
    unscaled: list[None] = []
    monkeypatch.setattr(trainer.accelerator, "unscale_gradients", lambda *_: unscaled.append(None))
    trainer.train()
    assert len(unscaled) == trainer.state.global_step == 4


def test_a_settled_budget_is_not_trained_on(tmp_path: Path) -> None:
    trainer = tiny.trainer_of(Budget(budget=5.0), tmp_path, lora=True)
    trainer.train()
    with pytest.raises(UserError, match="Make a new trainer to train again"):
        trainer.train()


@pytest.mark.parametrize("objective", [DialObjective(), Mixing()], ids=["dial", "mixing"])
def test_a_stream_of_task_rows_is_refused_where_rows_are_counted(
    objective: Objective, tmp_path: Path
) -> None:
    stream = tiny.rows(64, seed=2).to_iterable_dataset()
    assert isinstance(stream, IterableDataset)
    with pytest.raises(UserError, match="counts the task rows or draws them itself"):
        tiny.trainer_of(objective, tmp_path, task=stream)  # type: ignore[arg-type]
    case_1 = AlignmentLossConstraint(penalty=0.5)
    trainer = tiny.trainer_of(case_1, tmp_path, task=stream)  # type: ignore[arg-type]
    trainer.train()
    trainer.save_model(str(tmp_path / "model"))
    assert "a stream of task rows" in (tmp_path / "model/README.md").read_text("utf-8")


class BreakOff(TrainerCallback):
    """Ctrl-C between two batches of a step, once."""

    def __init__(self, step: int) -> None:
        self.step, self.has_broken_off = step, False

    def on_substep_end(self, args: Any, state: Any, *_: Any, **handles: Any) -> None:
        if state.global_step == self.step and not self.has_broken_off:
            self.has_broken_off = True
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    "objective",
    [AlignmentLossConstraint(penalty=0.7), GradientSurgery(1.0, towards="data")],
    ids=["case-1", "pcgrad"],
)
def test_a_step_that_was_broken_off_leaves_nothing_to_the_next_training(
    objective: Objective, tmp_path: Path
) -> None:
    settings = {
        "gradient_accumulation_steps": 2, "per_device_train_batch_size": 4, "logging_steps": 1
    }  # fmt: skip
    again = tiny.trainer_of(objective, tmp_path, **settings)
    again.add_callback(BreakOff(step=0))
    with pytest.raises(KeyboardInterrupt):
        again.train()
    again.train()
    once = tiny.trainer_of(objective, tmp_path, **settings)
    once.train()
    tiny.assert_same(tiny.weights(again), tiny.weights(once), by=0.0)
    first, expected = (trainer.state.log_history[0] for trainer in (again, once))
    assert first["loss"] == expected["loss"]
    assert first.get("safety_loss") == expected.get("safety_loss")


def test_what_is_logged_is_of_one_training_alone(tmp_path: Path) -> None:
    """Of two steps that are logged together, one is made before Ctrl-C and again after it."""
    case_1 = AlignmentLossConstraint(penalty=0.7)
    settings: dict[str, Any] = {"gradient_accumulation_steps": 2, "logging_steps": 2}
    trainer = tiny.trainer_of(case_1, tmp_path, **settings)
    trainer.add_callback(BreakOff(step=1))
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    trainer.train()
    first = trainer.state.log_history[0]
    assert first["loss"] == pytest.approx(first["task_loss"] + 0.7 * first["safety_loss"], rel=1e-4)


def test_a_packed_stream_is_refused_where_safety_rows_stand_beside_it(tmp_path: Path) -> None:
    stream: Any = tiny.rows(64, seed=2).to_iterable_dataset()
    assert sequences_per_row(stream.map(lambda row: row)) == 1.0  # what columns it has is not known
    with pytest.raises(UserError, match="a stream does not tell"):
        tiny.trainer_of(AlignmentLossConstraint(penalty=0.5), tmp_path, task=stream, packing=True)


def test_mixing_takes_tokens_of_another_integer_type(tmp_path: Path) -> None:
    task = tiny.rows(64, seed=2)
    tokens = Features({name: List(Value("int32")) for name in task.column_names})
    trainer = tiny.trainer_of(Mixing(0.5), tmp_path, task=task.cast(tokens))
    assert len(trainer.train_dataset) == 96
    trainer.train()


def test_batches_that_may_shrink_are_refused_beside_safety_rows(tmp_path: Path) -> None:
    for objective in (DialObjective(), AlignmentLossConstraint(penalty=0.5)):
        with pytest.raises(UserError, match="auto_find_batch_size changes"):
            tiny.trainer_of(objective, tmp_path, auto_find_batch_size=True)


@pytest.mark.parametrize("objective", [DialObjective(), Budget(budget=1.0), EarlyStopping()])
def test_weights_that_are_not_those_saved_are_refused(objective: Objective, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="schedule_free_adamw saves and evaluates other weights"):
        tiny.trainer_of(objective, tmp_path, optim="schedule_free_adamw")


def test_a_settled_budget_saves_no_end_of_its_dial(tmp_path: Path) -> None:
    trainer = tiny.trainer_of(Budget(budget=9.0), tmp_path)
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    saved, _ = load_model(str(tmp_path / "saved"))
    tiny.assert_same(
        dict(saved.named_parameters()), dict(trainer.model.named_parameters()), by=1e-6
    )
    state = tmp_path / "saved" / STATE_FILE
    assert not state.exists() or not any(
        isinstance(value, Tensor) for value in torch.load(state, weights_only=True).values()
    )


def test_early_stopping_ends_a_training_for_good(tmp_path: Path) -> None:
    trainer = tiny.trainer_of(EarlyStopping(0.0), tmp_path, learning_rate=1.0)
    trainer.train()
    assert trainer.state.global_step < 4
    with pytest.raises(UserError, match="Make a new trainer to train again"):
        trainer.train()


def test_weights_that_early_stopping_has_not_looked_at_are_not_the_best(tmp_path: Path) -> None:
    best = {"load_best_model_at_end": True, "eval_strategy": "steps", "save_strategy": "steps"}
    steps = {"eval_steps": 1, "save_steps": 1}
    with pytest.raises(UserError, match="may load weights that it has not looked at"):
        tiny.trainer_of(EarlyStopping(0.1, every=2), tmp_path, **best, **steps)
    tiny.trainer_of(EarlyStopping(0.1), tmp_path, **best, **steps)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (AlignmentLossConstraint, "is the class AlignmentLossConstraint. Give one of it"),
        (Budget, "is the class Budget"),
        (0.3, "is a float. Give an objective, as"),
    ],
)
def test_what_is_no_objective_is_refused(given: Any, told: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=told):
        tiny.trainer_of(given, tmp_path)


@pytest.mark.parametrize("lora", [False, True])
def test_two_gradients_of_a_step_are_not_taken_through_reentrant_checkpoints(
    lora: bool, tmp_path: Path
) -> None:
    how = {"use_reentrant": True}
    with pytest.raises(UserError, match="reentrant checkpointing gives one"):
        tiny.trainer_of(
            GradientSurgery(),
            tmp_path,
            lora,
            gradient_checkpointing=True,
            gradient_checkpointing_kwargs=how,
        )
    tiny.trainer_of(GradientSurgery(), tmp_path, lora, gradient_checkpointing_kwargs=how)


@pytest.mark.parametrize(
    "objective",
    [
        AlignmentParameterConstraint(radius=0.05),
        DialObjective(),
        Budget(budget=0.05, keeps_ends=True),
    ],
    ids=["radius", "dial", "budget"],
)
def test_a_trainer_may_train_again(objective: Objective, tmp_path: Path) -> None:
    trainer = tiny.trainer_of(objective, tmp_path, max_steps=1)
    trainer.train()
    before = tiny.weights(trainer)
    trainer.train()
    after = tiny.weights(trainer)
    assert any(not torch.equal(before[name], value) for name, value in after.items())


def test_the_ends_of_a_dial_end_where_trl_has_the_model_end(tmp_path: Path) -> None:
    trainer = tiny.trainer_of(DialObjective(), tmp_path, max_steps=1, eos_token="w7")
    trainer.train()
    assert isinstance(trainer.objective, DialObjective)
    trainer.objective.endpoints.save(tmp_path / "ends", tiny.tiny_llama(tmp_path / "model")[1])
    ends = trainer.model.generation_config.eos_token_id
    assert ends != tiny.tiny_llama(tmp_path / "model")[0].generation_config.eos_token_id
    for end in ("task", "safe"):
        saved, _ = load_model(str(tmp_path / "ends" / end))
        assert saved.generation_config.eos_token_id == ends


def test_a_dial_s_model_gets_no_new_tokens(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"copies the model before TRL adds .*clone_chat_template"):
        tiny.trainer_of(DialObjective(), tmp_path, chat_template_path=str(tmp_path / "model"))
    template = tmp_path / "chat.jinja"
    template.write_text("{{ messages }}")
    tiny.trainer_of(DialObjective(), tmp_path, chat_template_path=str(template))


@pytest.mark.parametrize(
    ("adapter", "told"),
    [
        (AdaLoraConfig(total_step=9, task_type="CAUSAL_LM"), "which plain LoRA ones do"),
        (LoraConfig(alora_invocation_tokens=[5]), "what alora_invocation_tokens asks for"),
    ],
)
def test_adapters_that_do_not_add_up_make_no_dial(
    adapter: LoraConfig, told: str, tmp_path: Path
) -> None:
    model, _ = tiny.tiny_llama(tmp_path / "model")
    with pytest.raises(UserError, match=told):
        new_endpoints(model, adapter)


def collated(
    objective: Objective | None, folder: Path, collator: dict[str, Any], **settings: Any
) -> SafetyAwareSFTTrainer:
    """A trainer whose rows are put together in a way of their own, once it has trained."""
    steps = {"optim": "sgd", "learning_rate": 0.5, **settings}
    trainer = tiny.trainer_of(objective, folder, collator=collator, **steps)
    trainer.train()
    return trainer


def test_positions_that_a_collator_gives_are_read_beside_safety_rows(tmp_path: Path) -> None:
    def learned(objective: Objective | None, *without: str) -> dict[str, Tensor]:
        collator = {"without": without}
        return tiny.weights(collated(objective, tmp_path, collator, max_steps=1))

    plain = learned(None)
    tiny.assert_same(learned(AlignmentLossConstraint(penalty=1e-9)), plain, by=1e-5)
    otherwise = learned(None, "position_ids")
    assert max((plain[name] - otherwise[name]).abs().max() for name in plain) > 1e-2


@pytest.mark.parametrize(
    ("collator", "told"),
    [
        ({"without": ("attention_mask",)}, "gives no attention_mask"),
        ({"weight_of_row": torch.ones(8)}, "gives weight_of_row, which safety rows cannot"),
    ],
)
def test_what_cannot_be_joined_is_told(collator: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=told):
        collated(AlignmentLossConstraint(penalty=1.0), tmp_path, collator, max_steps=1)


@pytest.mark.parametrize("name", ["constrained-sft", "adaptive-kl"])
def test_rows_are_known_again_on_whichever_side_they_are_padded(name: str, tmp_path: Path) -> None:
    left, right = (
        tiny.weights(collated(tiny.OBJECTIVES[name], tmp_path, {"side": side}, max_steps=2))
        for side in ("left", "right")
    )
    tiny.assert_same(left, right, by=1e-5)


def test_gradient_surgery_is_refused_under_fp16() -> None:
    context: Any = SimpleNamespace(args=SimpleNamespace(fp16=True))
    with pytest.raises(UserError, match="set bf16=True for fp16"):
        GradientSurgery().prepare(context)


def test_a_named_model_is_loaded_as_trl_loads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A dial's as well, which puts another model in its place."""
    given: list[dict[str, Any]] = []
    load = trainer_module.create_model_from_path

    def remembered(name: str, **settings: Any) -> Any:
        given.append(dict(settings))
        return load(name, **settings)

    tiny.tiny_llama(tmp_path / "model")
    for module in (trainer_module, sft_trainer):
        monkeypatch.setattr(module, "create_model_from_path", remembered)
    args = tiny.config(tmp_path, model_init_kwargs={"dtype": "float32"}, trust_remote_code=True)
    for objective in (None, DialObjective()):
        SafetyAwareSFTTrainer(
            str(tmp_path / "model"),
            args=args,
            train_dataset=tiny.rows(64, seed=2),
            safety_dataset=tiny.rows(40, seed=5) if objective else None,
            objective=objective,
        )
    plain, dial = given
    assert plain == dial
    assert args.model_init_kwargs == {"dtype": "float32"}
    assert "model_init_kwargs" not in caplog.text  # which TRL warns of where it has not used them


def test_a_named_model_is_whole_on_each_of_several_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.tiny_llama(tmp_path / "model")
    given: list[dict[str, Any]] = []
    monkeypatch.setattr(
        trainer_module, "create_model_from_path", lambda name, **settings: given.append(settings)
    )
    args = tiny.config(tmp_path)
    several = DistributedType.MULTI_GPU
    monkeypatch.setattr(args.distributed_state, "distributed_type", several)
    trainer_module._model_of(str(tmp_path / "model"), args, None)
    assert given[0]["device_map"] is None
    twice = tiny.config(tmp_path, model_init_kwargs={"quantization_config": {}})
    with pytest.raises(UserError, match="Give it to the trainer alone"):
        trainer_module._model_of(str(tmp_path / "model"), twice, object())


def test_pieces_of_a_batch_have_no_logits_for_a_loss_function(tmp_path: Path) -> None:
    model, tokenizer = tiny.tiny_llama(tmp_path / "model")
    with pytest.raises(UserError, match="compute_loss_func has logits to take"):
        SafetyAwareSFTTrainer(
            model,
            args=tiny.config(tmp_path, length_bucketing=True),
            train_dataset=tiny.rows(64, seed=2),
            processing_class=tokenizer,
            compute_loss_func=lambda outputs, labels, num_items_in_batch: outputs.logits.mean(),
        )


def tied(folder: Path) -> Path:
    """The tiny model with one weight for its embedding and its head."""
    model, tokenizer = tiny.tiny_llama(folder / "untied")
    model.config.tie_word_embeddings = True
    model.lm_head.weight = model.model.embed_tokens.weight
    model.save_pretrained(folder / "tied")
    tokenizer.save_pretrained(folder / "tied")
    return folder / "tied"


@torch.no_grad()
def test_an_adapter_on_a_shared_embedding_is_merged_into_the_embedding_alone(
    tmp_path: Path,
) -> None:
    folder = tied(tmp_path)
    base, tokenizer = load_model(str(folder))
    head: Any = base.get_output_embeddings()
    assert head.weight is base.get_input_embeddings().weight
    adapter = get_peft_model(
        base, LoraConfig(r=4, target_modules=["embed_tokens", "q_proj"], task_type="CAUSAL_LM")
    )
    generator = torch.Generator().manual_seed(1)
    for name, weight in adapter.named_parameters():
        if "lora_" in name:
            weight.copy_(0.3 * torch.randn(weight.shape, generator=generator))
    adapter.save_pretrained(tmp_path / "adapter")
    tokenizer.save_pretrained(tmp_path / "adapter")
    ids = torch.tensor([[3, 4, 5, 6, 7]])

    def logits(model: Any) -> Tensor:
        found: Tensor = model.eval()(ids).logits
        return found

    expected = logits(adapter)
    assert isinstance(adapter, PeftModel)
    torch.testing.assert_close(logits(load_model(str(tmp_path / "adapter"))[0]), expected)
    merged_model(adapter).save_pretrained(tmp_path / "merged")
    tokenizer.save_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(load_model(str(tmp_path / "merged"))[0]), expected)
