"""Safety-preserving fine-tuning (SPF): where it conflicts, no gradient in safety's directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from transformers.pytorch_utils import Conv1D

from trimtab.config.ranges import Count
from trimtab.train.baselines.safety_gradient import safety_gradient
from trimtab.train.context import TrainingContext
from trimtab.train.objectives.base import Objective, Roles, gradients, trained

SPARE, ITERATIONS = 5, 2
"""Of the randomised SVD: directions beyond those wanted, and power iterations."""


@dataclass
class SafetyPreserving(Objective):
    """Step on G, and where ⟨G, G_s⟩ < 0 on (I − UUᵀ)G, matrix by matrix.

    G is the task's gradient and G_s that of L_ŝ on a safety row or a few, drawn anew every step;
    the inner product is over all trained weights together. The columns of U are the k left singular
    vectors of a matrix's part of G_s with the largest singular values, by a randomised SVD. A
    matrix has a row for each of its layer's outputs, an embedding's one for each token. A vector,
    such as a norm's weights, is one of one column; a stack of matrices, as experts kept together
    have, is taken apart.

    G_s of a few tokens has at most as many directions: a larger k changes nothing. An optimizer
    that scales the gradient entry by entry, as Adam does, steps along U again by a little.

    A LoRA of rank r has one matrix of only r rows in each pair: from k = r on nothing is left of
    that one's gradient in a conflict.

    Args:
        rank: k, the authors' 10 to 20, for all weights of 7B models.
        rows: safety rows behind G_s, the authors' 1.

    They also set Adam's β₁ to 0.5; here the optimizer is that of all methods.

    Source: Zhang et al. 2026, "Understanding and Preserving Safety in Fine-Tuned LLMs", arXiv
    2601.10141, algorithm 1 as others describe it.
    """

    rank: Count = 20
    needs_padded_rows = True
    rows: Count = 1

    def __post_init__(self) -> None:
        given: float = self.rank
        if isinstance(given, float) and given.is_integer():  # a grid's values are floats
            self.rank = int(given)
        super().__post_init__()
        self.needs_safety = True

    def batch_roles(self, step: int) -> Roles:
        return "task"

    def prepare(self, context: TrainingContext) -> None:
        owners = {
            weight: layer
            for layer in context.model.modules()
            for weight in layer.parameters(recurse=False)
        }
        self.layers = [owners[weight] for weight in trained(context.model)]

    def adjust_gradient(self, context: TrainingContext) -> None:
        weights = trained(context.model)
        safety, tokens = safety_gradient(context, weights, self.rows, context.step)
        self.extra_tokens += tokens
        left = without_conflict(gradients(weights), safety, self.layers, self.rank, context.step)
        for weight, part in zip(weights, left, strict=True):
            weight.grad = part


@torch.no_grad()
def without_conflict(
    task: list[Tensor],
    safety: list[Tensor],
    layers: Sequence[nn.Module],
    rank: int,
    seed: int = 0,
) -> list[Tensor]:
    """(I − UUᵀ)G for each matrix where ⟨G, G_s⟩ < 0 over all together, else G.

    Args:
        layers: whose weight each part of G is the gradient of.
    """
    if sum(float((g.double() * s.double()).sum()) for g, s in zip(task, safety, strict=True)) >= 0:
        return task
    left = []
    for gradient, direction, layer in zip(task, safety, layers, strict=True):
        projected = gradient.clone(memory_format=torch.contiguous_format)
        directions = matrices_of(direction.contiguous(), layer)
        for matrix, of_safety in zip(matrices_of(projected, layer), directions, strict=True):
            basis = left_singular_vectors(of_safety.float(), rank, seed)
            matrix.sub_(basis @ (basis.T @ matrix.float()))
        left.append(projected)
    return left


def matrices_of(part: Tensor, layer: nn.Module) -> Tensor:
    """A contiguous weight's matrices as a view of it, shape (matrices, outputs, inputs).

    >>> [tuple(matrices_of(torch.ones(shape), nn.Identity()).shape) for shape in ([6], [4, 6, 2])]
    [(1, 6, 1), (4, 6, 2)]
    >>> tuple(matrices_of(torch.ones(6, 1, 4), nn.Conv1d(6, 6, 4, groups=6)).shape)
    (1, 6, 4)
    >>> tuple(matrices_of(torch.ones(5, 8), Conv1D(8, 5)).shape)  # as GPT-2 keeps them
    (1, 8, 5)
    """
    if isinstance(layer, Conv1D) and part.dim() == 2:
        return part.T[None]
    if part.dim() < 3 or isinstance(layer, _ConvNd):
        return part.view(1, len(part), -1)
    return part.flatten(0, -3)


def left_singular_vectors(matrix: Tensor, rank: int, seed: int) -> Tensor:
    """Those of the `rank` largest singular values as columns, fewer where it has fewer.

    >>> left_singular_vectors(torch.tensor([[0.0, 3.0], [1.0, 0.0]]), 1, 0).abs().tolist()
    [[1.0], [0.0]]
    """
    if not matrix.any():
        return matrix.new_zeros(len(matrix), 0)
    wanted = min(rank, *matrix.shape)
    if wanted + SPARE >= min(matrix.shape):
        vectors, values, _ = torch.linalg.svd(matrix, full_matrices=False)
    else:
        devices = [matrix.device] if matrix.is_cuda else []
        with torch.random.fork_rng(devices):  # the data's order stays what it is
            torch.manual_seed(seed)
            vectors, values, _ = torch.svd_lowrank(matrix, wanted + SPARE, ITERATIONS)
    kept = values[:wanted] > values[0] * torch.finfo(matrix.dtype).eps
    return vectors[:, :wanted][:, kept]
