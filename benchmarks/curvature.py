"""The top of a Hessian's spectrum: Lanczos against power iteration and against the whole matrix.

    python benchmarks/curvature.py

Two Llamas. On one of some 900 weights the exact Hessian can be formed, one product for each weight:
how near each method comes and what it costs, in Hessian-vector products. On the built-in one of
200,000 the matrix would have 4·10^10 entries; Lanczos and power iteration run to the same tolerance
on the same rows, and the products and the time of each are compared.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM

from trimtab.measure.geometry import curvature
from trimtab.measure.token_loss import (
    TokenLoss,
    all_weights,
    inner,
    length,
    random_direction,
    scaled,
)
from trimtab.models import load_model, quiet_libraries, save_tiny_llama

TOLERANCE = 0.01
MOST = 400


def main() -> None:
    quiet_libraries()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=20,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
        initializer_range=0.3,
    )
    small = LlamaForCausalLM(config)
    with tempfile.TemporaryDirectory() as folder:
        save_tiny_llama([f"w{number}" for number in range(30)], Path(folder), seed=0)
        larger, _ = load_model(folder)
    results = {}
    for name, model, vocabulary in (("small", small, 20), ("larger", larger, 33)):
        with all_weights(model) as (_, weights):
            loss = TokenLoss.over(model, weights, _rows(64, vocabulary), 4096)
            size = sum(weight.numel() for weight in weights)
            by_method = {"lanczos": _lanczos(loss), "power iteration": _power(loss)}
            if name == "small":
                by_method["whole matrix"] = _whole_matrix(loss, size)
        results[name] = {"weights": size, **by_method}
        base = by_method["lanczos"]
        for method, result in by_method.items():
            print(
                f"{size:>8} weights  {method:<16} eigenvalue {result['value']:9.4f}  "
                f"{result['products']:>5} products ({result['products'] / base['products']:.1f}x)  "
                f"{result['seconds']:7.2f} s ({result['seconds'] / base['seconds']:.1f}x)"
            )
    print(json.dumps(results))


def _lanczos(loss: TokenLoss) -> dict[str, float]:
    products = 0

    def count(so_far: int) -> None:
        nonlocal products
        products = so_far

    started = perf_counter()
    value = curvature(loss, count).value
    # Its interval costs a product on each quarter of the rows: one product in all.
    return {"value": value, "products": products + 1, "seconds": perf_counter() - started}


def _power(loss: TokenLoss) -> dict[str, float]:
    started = perf_counter()
    vector = random_direction(loss.weights, seed=0)
    products = 0
    while products < MOST:
        products += 1
        image = loss.curvature_along(vector)
        value = float(inner(vector, image))
        residual = [part - value * own for part, own in zip(image, vector, strict=True)]
        if length(residual) <= TOLERANCE * abs(value):
            break
        vector = scaled(image, 1 / length(image))
    return {"value": value, "products": products, "seconds": perf_counter() - started}


def _whole_matrix(loss: TokenLoss, size: int) -> dict[str, float]:
    started = perf_counter()
    sizes = [weight.numel() for weight in loss.weights]
    columns = []
    for place in range(size):
        unit = torch.zeros(size)
        unit[place] = 1
        parts = unit.split(sizes)
        direction = [part.view_as(w) for part, w in zip(parts, loss.weights, strict=True)]
        columns.append(torch.cat([part.flatten() for part in loss.curvature_along(direction)]))
    values = np.linalg.eigvalsh(torch.stack(columns).double().numpy())
    value = float(max(values, key=abs))
    return {"value": value, "products": size, "seconds": perf_counter() - started}


def _rows(count: int, vocabulary: int) -> Dataset:
    generator = torch.Generator().manual_seed(0)
    records = []
    for _ in range(count):
        ids = torch.randint(3, vocabulary, (8,), generator=generator).tolist()
        records.append({"input_ids": ids, "labels": [-100] * 4 + ids[4:]})
    return Dataset.from_list(records)


if __name__ == "__main__":
    main()
