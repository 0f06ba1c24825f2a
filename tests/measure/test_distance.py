"""Facts about ‖θ − θ_s‖: it is the distance of the formed weights, whatever the adapter."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import (
    AdaLoraConfig,
    IA3Config,
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    OFTConfig,
    PeftConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    VeraConfig,
    get_peft_model,
)
from torch import Tensor

from tests.architectures import gpt2, llama, mixtral
from trimtab import UserError
from trimtab.measure.distance import Displacement, distance
from trimtab.train.baselines.interpolation import Interpolation
from trimtab.train.objectives.proximal import optimizer_step_size, project_onto_ball, shrink
from trimtab.train.reference import AlignedReference

COMMON: dict[str, Any] = {"task_type": "CAUSAL_LM", "target_modules": ["q_proj", "down_proj"]}


def trained_somehow(model: PeftModel, size: float = 0.05) -> PeftModel:
    """Every trained parameter moved from where it is."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(size * torch.randn(weight.shape, generator=generator))
    return model


def formed(model: Any) -> dict[str, Tensor]:
    """The weights with the adapters merged, in float64."""
    whole = deepcopy(model).double()
    if isinstance(whole, PeftModel):
        names = list(whole.active_adapters)
        whole = whole.merge_and_unload(adapter_names=names)
    return {name: weight.detach() for name, weight in whole.named_parameters()}


def between(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    return sum(float((first[name] - second[name]).square().sum()) for name in second) ** 0.5


@st.composite
def lora_configs(draw: st.DrawFn) -> LoraConfig:
    rank = draw(st.sampled_from([1, 3]))
    targets = draw(
        st.sampled_from(
            [["q_proj"], ["q_proj", "down_proj"], "all-linear", ["q_proj", "embed_tokens"]]
        )
    )
    arguments: dict[str, Any] = {
        "r": rank,
        "lora_alpha": draw(st.sampled_from([1, 4, 16])),
        "target_modules": targets,
        "use_rslora": draw(st.booleans()),
        "bias": draw(st.sampled_from(["none", "none", "all", "lora_only"])),
        "init_lora_weights": draw(st.sampled_from([True, "gaussian"])),
        "rank_pattern": draw(st.sampled_from([{}, {"q_proj": 2}])),
        "alpha_pattern": draw(st.sampled_from([{}, {"q_proj": 7}])),
        "modules_to_save": draw(st.sampled_from([None, None, ["lm_head"], ["norm"]])),
        "lora_bias": draw(st.booleans()) if targets == ["q_proj"] else False,
    }
    if arguments["lora_bias"]:
        arguments |= {"bias": "none", "init_lora_weights": True}
    return LoraConfig(task_type="CAUSAL_LM", **arguments)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(lora_configs())
def test_every_lora_is_as_far_as_its_formed_weights(config: LoraConfig) -> None:
    aligned = llama()
    model = get_peft_model(llama(), config)
    displacement = Displacement(model)
    assert displacement.norm() == 0
    trained_somehow(model)
    expected = between(formed(model), formed(aligned))
    assert expected > 1e-3
    assert float(displacement.norm()) == pytest.approx(expected, rel=1e-5)
    assert distance(model, aligned) == pytest.approx(expected, rel=1e-5)
    assert float(Displacement(model, aligned).norm()) == pytest.approx(expected, rel=1e-5)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(lora_configs(), st.floats(0.1, 0.9))
def test_every_lora_is_interpolated_as_its_formed_weights_are(
    config: LoraConfig, share: float
) -> None:
    aligned = llama()
    model = trained_somehow(get_peft_model(llama(), config))
    start, tuned = formed(aligned), formed(model)
    weights = formed(Interpolation(share).apply(model, aligned, None))
    for name, weight in weights.items():
        expected = share * start[name] + (1 - share) * tuned[name]
        torch.testing.assert_close(weight, expected, atol=1e-6, rtol=1e-5)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(lora_configs())
def test_every_lora_can_be_held_in_a_ball_and_shrunk(config: LoraConfig) -> None:
    aligned = llama()
    model = get_peft_model(llama(), config)
    displacement = Displacement(model)
    trained_somehow(model)
    project_onto_ball(displacement, 0.02)
    assert between(formed(model), formed(aligned)) == pytest.approx(0.02, rel=1e-4)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    shrink(displacement, 10.0, torch.optim.SGD(weights, lr=1.0))
    assert between(formed(model), formed(aligned)) < 0.02


def two_active() -> PeftModel:
    model = get_peft_model(llama(), LoraConfig(r=2, lora_alpha=6, **COMMON))
    model.add_adapter("second", LoraConfig(r=3, lora_alpha=3, **COMMON))
    model.base_model.set_adapter(["default", "second"])
    for name, weight in model.named_parameters():
        weight.requires_grad_("lora_" in name)
    return model


def fused_experts(**more: Any) -> PeftModel:
    targets = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    config = LoraConfig(
        r=2,
        lora_alpha=6,
        target_modules=["q_proj"],
        target_parameters=targets,
        task_type="CAUSAL_LM",
        **more,
    )
    return get_peft_model(mixtral(), config)


def transposed() -> PeftModel:
    config = LoraConfig(
        r=2, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True, task_type="CAUSAL_LM"
    )
    return get_peft_model(gpt2(), config)


def single_tokens() -> PeftModel:
    config = LoraConfig(r=2, trainable_token_indices=[1, 5], **COMMON)
    return get_peft_model(llama(), config)


SHAPES = {
    "two active adapters": (two_active, llama),
    "fused experts": (fused_experts, mixtral),
    "fused experts, rsLoRA": (lambda: fused_experts(use_rslora=True), mixtral),
    "weights stored transposed": (transposed, gpt2),
    "single tokens": (single_tokens, llama),
}


@pytest.mark.parametrize("name", SHAPES)
def test_distance_of_adapters_of_other_shapes(name: str) -> None:
    make, start = SHAPES[name]
    model, aligned = make(), start()
    displacement = Displacement(model)
    trained_somehow(model)
    expected = between(formed(model), formed(aligned))
    assert float(displacement.norm()) == pytest.approx(expected, rel=1e-5)
    assert distance(model, aligned) == pytest.approx(expected, rel=1e-5)
    project_onto_ball(displacement, 0.01)
    assert between(formed(model), formed(aligned)) == pytest.approx(0.01, rel=1e-4)


@pytest.mark.parametrize("name", ["two active adapters", "fused experts"])
def test_gradient_of_the_squared_distance_is_that_of_the_formed_product(name: str) -> None:
    model = SHAPES[name][0]()
    displacement = Displacement(model)
    trained_somehow(model, size=0.3)
    for part in displacement.low_rank.values():
        twins = {
            id(weight): weight.detach().clone().requires_grad_()
            for adapter in part.adapters
            for weight in (adapter.a, adapter.b)
        }
        weights, gradients = zip(*part.gradient(), strict=True)
        leaves = [twins[id(weight)] for weight in weights]
        expected = torch.autograd.grad(squared_norm_formed(part, twins), leaves)
        for gradient, autograd in zip(gradients, expected, strict=True):
            torch.testing.assert_close(gradient, autograd, atol=1e-6, rtol=1e-4)


def squared_norm_formed(part: Any, twins: dict[int, Tensor]) -> Tensor:
    """Σ over experts of ‖Σ over adapters of s·BA‖², with the products formed."""
    squared = torch.zeros(())
    for expert in range(part.adapters[0].experts):
        update = torch.zeros(())
        for adapter in part.adapters:
            a, b = twins[id(adapter.a)], twins[id(adapter.b)]
            a = a.reshape(adapter.experts, -1, a.shape[-1])[expert]
            b = b.reshape(b.shape[0], -1, adapter.experts)[:, :, expert]
            update = update + adapter.scaling * b @ a
        squared = squared + update.square().sum()
    return squared


MERGED = {
    "lokr": LoKrConfig(r=2, **COMMON),
    "loha": LoHaConfig(r=2, **COMMON),
    "oft": OFTConfig(r=0, oft_block_size=4, **COMMON),
    "ia3": IA3Config(
        target_modules=["k_proj", "down_proj"],
        feedforward_modules=["down_proj"],
        task_type="CAUSAL_LM",
    ),
    "vera": VeraConfig(r=4, task_type="CAUSAL_LM", target_modules=["q_proj"]),
    "adalora": AdaLoraConfig(total_step=4, tinit=1, tfinal=1, **COMMON),
    "dora": LoraConfig(r=2, use_dora=True, **COMMON),
    "pissa": LoraConfig(r=2, init_lora_weights="pissa", **COMMON),
    "olora": LoraConfig(r=2, init_lora_weights="olora", **COMMON),
    "random start": LoraConfig(r=2, init_lora_weights=False, **COMMON),
    "orthogonal": LoraConfig(r=2, init_lora_weights="orthogonal", **COMMON),
}


@pytest.mark.parametrize("kind", MERGED)
def test_any_adapter_is_measured_by_what_it_makes_of_the_weights(kind: str) -> None:
    aligned = llama()
    model = trained_somehow(get_peft_model(llama(), MERGED[kind]))
    expected = between(formed(model), formed(aligned))
    assert expected > 1e-3
    assert distance(model, aligned) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("kind", MERGED)
def test_what_is_no_product_of_two_factors_from_zero_is_refused(kind: str) -> None:
    with pytest.raises(UserError) as refusal:
        Displacement(get_peft_model(llama(), MERGED[kind]))
    starts_elsewhere = kind in ("pissa", "olora", "random start", "orthogonal")
    advice = "init_lora_weights=True" if starts_elsewhere else "plain LoRA"
    assert advice in str(refusal.value)
    assert "merge" not in str(refusal.value).lower()


@pytest.mark.parametrize(
    "config",
    [
        PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM"),
        PrefixTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM"),
    ],
    ids=["prompt tuning", "prefix tuning"],
)
def test_adapters_without_weights_have_no_distance(config: PeftConfig) -> None:
    model = get_peft_model(llama(), config)
    for refused in (lambda: Displacement(model), lambda: distance(model, llama())):
        with pytest.raises(UserError, match="changes no weights"):
            refused()
    with pytest.raises(UserError, match="changes no weights"):
        AlignedReference(model)


@pytest.mark.parametrize("kind", ["pissa", "olora", "random start"])
def test_kl_refuses_an_adapter_that_does_not_start_at_its_base(kind: str) -> None:
    with pytest.raises(UserError, match="init_lora_weights=True"):
        AlignedReference(get_peft_model(llama(), MERGED[kind]))


def test_a_head_of_its_own_on_a_shared_embedding_is_as_far_as_it_moved() -> None:
    config = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"])
    model = get_peft_model(llama(tie_word_embeddings=True), config)
    head: Any = model.get_base_model().get_output_embeddings()
    (own,) = head.modules_to_save.values()
    with torch.no_grad():
        own.weight += 0.25
    expected = 0.25 * own.weight.numel() ** 0.5
    assert distance(model, llama(tie_word_embeddings=True)) == pytest.approx(expected, rel=1e-5)
    merged = deepcopy(model).merge_and_unload()
    assert distance(merged, llama(tie_word_embeddings=True)) == pytest.approx(expected, rel=1e-5)


SHARED: dict[str, dict[str, Any]] = {
    "rows of tokens": {"trainable_token_indices": [1, 2]},
    "whole modules": {
        "modules_to_save": ["embed_tokens", "lm_head"],
        "ensure_weight_tying": True,
    },
}


@pytest.mark.parametrize(
    ("kind", "tie"),
    [("rows of tokens", False), ("rows of tokens", True), ("whole modules", True)],
)
def test_what_embedding_and_head_share_counts_once(kind: str, tie: bool) -> None:
    config = LoraConfig(r=2, target_modules=["q_proj"], **SHARED[kind])
    model = get_peft_model(llama(tie_word_embeddings=tie), config)
    held = Displacement(model)  # what a radius holds
    trained_somehow(model)
    held.rescale_(1 / held.norm())
    aligned = llama(tie_word_embeddings=tie)
    assert distance(model, aligned) == pytest.approx(1.0, rel=1e-5)
    assert between(formed(model), formed(aligned)) == pytest.approx(1.0, rel=1e-5)
    if kind == "whole modules":
        after = Displacement(model, aligned)
        assert float(after.norm()) == pytest.approx(1.0, rel=1e-5)
        after.rescale_(torch.tensor(0.5))
        assert distance(model, aligned) == pytest.approx(0.5, rel=1e-5)


def test_an_adapter_on_a_shared_head_is_as_far_as_its_product() -> None:
    config = LoraConfig(r=2, target_modules=["lm_head"], ensure_weight_tying=False)
    model = get_peft_model(llama(tie_word_embeddings=True), config)
    trained_somehow(model)
    aligned = llama(tie_word_embeddings=True)
    far = distance(model, aligned)
    assert far > 0
    assert float(Displacement(model, aligned).norm()) == pytest.approx(far, rel=1e-5)


def test_a_weight_trained_twice_is_refused() -> None:
    model = get_peft_model(llama(), LoraConfig(r=2, **COMMON))
    model.get_base_model().model.layers[0].mlp.down_proj.base_layer.weight.requires_grad_(True)
    with pytest.raises(UserError, match="as well"):
        Displacement(model)


def test_a_merged_adapter_is_refused() -> None:
    model = trained_somehow(get_peft_model(llama(), LoraConfig(r=2, **COMMON)))
    expected = between(formed(model), formed(llama()))
    model.merge_adapter()
    with pytest.raises(UserError, match="unmerge_adapter"):
        Displacement(model)
    assert distance(model, llama()) == pytest.approx(expected, rel=1e-4)


def test_interpolation_refuses_an_adapter_of_another_base() -> None:
    model = trained_somehow(get_peft_model(llama(), LoraConfig(r=2, **COMMON)))
    moved_base = llama()
    with torch.no_grad():
        moved_base.model.layers[1].self_attn.q_proj.weight.add_(0.1)
    with pytest.raises(UserError, match="base is not the aligned model"):
        Interpolation(0.5).apply(model, moved_base, None)


@pytest.mark.parametrize("amsgrad", [False, True])
def test_the_step_of_adam_is_known_with_amsgrad_too(amsgrad: bool) -> None:
    weight = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer = torch.optim.Adam([weight], lr=0.1, betas=(0.0, 0.9), amsgrad=amsgrad)
    for size in (5.0, 1.0, 1.0):
        before = weight.detach().clone()
        weight.grad = torch.full_like(weight, size)
        optimizer.step()
    step = optimizer_step_size(weight, optimizer.param_groups[0], optimizer)
    torch.testing.assert_close(before - weight.detach(), step)
