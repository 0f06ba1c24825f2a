"""Facts about slope, curvature and basin at a model."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import get_peft_model
from torch.func import functional_call, hessian
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

from tests.train import tiny
from trimtab.errors import UserError
from trimtab.measure.distance import distance
from trimtab.measure.geometry import cosine_between, curvature, landscape, largest_radius, slope
from trimtab.measure.influence import endangering_rows
from trimtab.measure.losses import padded_batches, response_nll
from trimtab.measure.token_loss import (
    TokenLoss,
    all_weights,
    inner,
    length,
    low_rank_subspace,
    random_direction,
    scaled,
)


def small_model(vocabulary: int = 12, hidden: int = 8) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=hidden,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=16,
            initializer_range=0.3,
            attn_implementation="eager",
        )
    ).double()


def small_rows(count: int = 12):  # noqa: ANN201
    rows = tiny.rows(count, seed=3)
    return rows.map(
        lambda row: {
            "input_ids": [number % 12 for number in row["input_ids"]],
            "labels": [label if label == -100 else label % 12 for label in row["labels"]],
        }
    )


def exact_loss(model: LlamaForCausalLM, rows: object) -> object:
    """The loss row by row, with no batch, no padding and none of the code under test."""

    def loss(weights: dict[str, torch.Tensor]) -> torch.Tensor:
        total, tokens = 0.0, 0
        for row in rows:
            ids, labels = torch.tensor(row["input_ids"])[None], torch.tensor(row["labels"])
            logits = functional_call(model, weights, (ids,)).logits[0, :-1]
            total = total + cross_entropy(logits, labels[1:], reduction="sum", ignore_index=-100)
            tokens += int((labels[1:] != -100).sum())
        return total / tokens

    return loss


def test_curvature_is_the_top_of_the_exact_hessian() -> None:
    model, rows = small_model(), small_rows()
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    blocks = hessian(exact_loss(model, rows))(weights)
    matrix = torch.cat(
        [
            torch.cat([blocks[a][b].reshape(weights[a].numel(), -1) for b in weights], dim=1)
            for a in weights
        ]
    ).numpy()
    values = np.linalg.eigvalsh(matrix)
    with all_weights(model) as (_, parameters):
        loss = TokenLoss.over(model, parameters, rows, 60)
        estimate = curvature(loss)
    assert estimate.value == pytest.approx(max(values, key=abs), rel=0.01)
    assert estimate.low < estimate.value < estimate.high


def test_slope_is_the_gradient_of_the_mean_over_tokens() -> None:
    model, rows = small_model(), small_rows()
    weights = dict(model.named_parameters())
    exact = torch.autograd.grad(exact_loss(model, rows)(weights), tuple(weights.values()))
    with all_weights(model) as (_, parameters):
        loss = TokenLoss.over(model, parameters, rows, 60)
        measured, parts = slope(loss)
    assert measured.norm.value == pytest.approx(length(exact), rel=1e-5)
    assert len(parts.gradients) == 4
    assert parts.tokens.sum() == loss.tokens
    assert measured.norm.low <= measured.norm.value <= measured.norm.high
    assert loss.value() == pytest.approx(exact_loss(model, rows)(weights).item(), rel=1e-6)


def test_parts_and_what_is_told_by_them_do_not_depend_on_the_batches() -> None:
    model, rows = small_model(), small_rows()
    found = []
    for size in (1, 2, 3, 12):
        with all_weights(model) as (_, parameters):
            batches = [
                (inputs, targets)
                for first in range(0, len(rows), size)
                for _, inputs, targets in padded_batches(
                    model, rows.select(range(first, first + size)), 1000
                )
            ]
            loss = TokenLoss(model, tuple(parameters), tuple(batches))
            found.append(([loss.part(n, 4).rows for n in range(4)], slope(loss)[0].norm))
    assert all(counts == [3, 3, 3, 3] for counts, _ in found)
    assert all(math.isfinite(norm.high) for _, norm in found)


def test_the_cosine_is_that_of_the_gradients_of_all_rows() -> None:
    model, rows, others = small_model(), small_rows(7), small_rows(12).select(range(5, 12))
    with all_weights(model) as (_, parameters):
        losses = [TokenLoss.over(model, parameters, part, 60) for part in (rows, others)]
        (ours, our_parts), (theirs, their_parts) = map(slope, losses)
    exact = float(inner(ours.gradient, theirs.gradient)) / (
        length(ours.gradient) * length(theirs.gradient)
    )
    assert len(set(our_parts.tokens)) > 1
    assert cosine_between(our_parts, their_parts).value == pytest.approx(exact, rel=1e-6)


def test_fewer_rows_than_parts_are_one_line() -> None:
    model = small_model()
    with all_weights(model) as (_, parameters):
        loss = TokenLoss.over(model, parameters, small_rows(3), 60)
        for measured in (slope, curvature):
            with pytest.raises(UserError, match=r"there are 3 rows\. Give 4 at least"):
                measured(loss)


def test_distance_in_the_low_rank_subspace_is_that_of_the_formed_product(tmp_path: Path) -> None:
    model, _ = tiny.tiny_llama(tmp_path / "model")
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    with low_rank_subspace(model, rank=4) as (adapted, weights):
        direction = random_direction(weights, seed=1)
        loss = TokenLoss.over(adapted, weights, tiny.rows(8, seed=3), 500)
        start = loss.value()
        with loss.moved(direction, 0.7):
            assert distance(adapted, model) == pytest.approx(0.7, rel=1e-5)
            assert loss.value() != pytest.approx(start, rel=1e-5)
            merged = 0.0
            for layer in adapted.modules():
                if hasattr(layer, "lora_A"):
                    merged += float(layer.get_delta_weight("default").double().square().sum())
        assert merged**0.5 == pytest.approx(0.7, rel=1e-5)
        assert loss.value() == start
    after = dict(model.named_parameters())
    assert set(after) == set(before)
    for name, weight in before.items():
        assert torch.equal(weight, after[name].detach())
        assert after[name].requires_grad


def test_the_subspace_has_the_slope_of_the_projected_gradient(tmp_path: Path) -> None:
    model, _ = tiny.tiny_llama(tmp_path / "model")
    rows = tiny.rows(8, seed=3)
    with all_weights(model) as (_, weights):
        whole = length(TokenLoss.over(model, weights, rows, 500).gradient())
    with low_rank_subspace(model, rank=8) as (adapted, weights):
        within = length(TokenLoss.over(adapted, weights, rows, 500).gradient())
    assert 0 < within < whole


def test_near_the_model_theorem_3_holds_and_down_the_gradient_the_loss_falls(
    tmp_path: Path,
) -> None:
    model, _ = tiny.tiny_llama(tmp_path / "model")
    with all_weights(model) as (_, weights):
        loss = TokenLoss.over(model, weights, tiny.rows(24, seed=3), 500)
        terrain = landscape(loss, {"same": loss}, random_directions=1)
        assert terrain.tasks["same"].cosine.value == pytest.approx(1, abs=1e-4)
        g, h = terrain.safety_slope.value, abs(terrain.safety_curvature.value)
        down, up, aside = terrain.walks
        assert down.losses[1] < down.losses[0] < up.losses[1]
        assert up.losses[1] > aside.losses[1]
        for walk in terrain.walks:
            for step, value in zip(walk.distances[:4], walk.losses[:4], strict=True):
                assert value - walk.losses[0] <= g * step + 0.5 * h * step**2 + 1e-5


def test_the_largest_radius_solves_theorem_3() -> None:
    radius = largest_radius(0.3, gradient_norm=0.5, smoothness=4.0)
    assert 0.5 * radius + 0.5 * 4.0 * radius**2 == pytest.approx(0.3)


def test_the_rate_of_a_row_is_the_inner_product_of_two_gradients() -> None:
    model = small_model()
    rows, safety_rows = small_rows(), small_rows(20).select(range(12, 20))
    with all_weights(model) as (_, weights):
        safety = TokenLoss.over(model, weights, safety_rows, 100)
        task = TokenLoss.over(model, weights, rows, 100)
        gradient = task.gradient()
        downhill = scaled(gradient, -1 / length(gradient))
        endangering = endangering_rows(model, safety, rows, downhill, 0.2, 100)
        with safety.moved(downhill, 0.2):
            anchor = safety.gradient()
        for place in range(len(rows)):
            own = TokenLoss.over(model, weights, rows.select([place]), 100).gradient()
            expected = -float(inner(own, anchor)) / length(anchor)
            assert endangering.rates[place] == pytest.approx(expected, rel=1e-3, abs=1e-5)
        worst = endangering.worst(0.5)
        assert (endangering.rates[worst] > 0).all()
        assert endangering.rates[worst[0]] == endangering.rates.max()


def test_measuring_leaves_the_losses_as_they_were(tmp_path: Path) -> None:
    model = get_peft_model(tiny.tiny_llama(tmp_path / "model")[0], tiny.lora_config()).unload()
    rows = tiny.rows(8, seed=3)
    before, _ = response_nll(model, rows, 500)
    with low_rank_subspace(model, rank=2) as (adapted, weights):
        loss = TokenLoss.over(adapted, weights, rows, 500)
        landscape(loss, {"task": loss}, random_directions=1)
    after, _ = response_nll(model, rows, 500)
    assert before.tolist() == after.tolist()
