"""Facts about benchmarks: what of the one for a GPU runs without one, and a rule told twice."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from trimtab.stats import paired_difference

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "gpu.py"


def run(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARK), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_a_case_takes_steps_of_both_trainers_in_turn() -> None:
    case = {"model": "tiny", "first": "plain", "second": "Case I", "is_packed": True, "steps": 8}
    ended = run("--case", json.dumps(case))
    assert not ended.returncode, ended.stderr
    result = json.loads(ended.stdout.splitlines()[-1])
    assert result.items() >= case.items()
    assert min(result["tokens_per_second"]) > 0
    assert result["ratio_quartiles"][0] <= result["ratio"] <= result["ratio_quartiles"][1]


def test_what_is_there_is_not_measured_again(tmp_path: Path) -> None:
    sys.path.insert(0, str(BENCHMARK.parent))
    try:
        from gpu import MODELS, asdict, cases
    finally:
        sys.path.pop(0)
    all_cases = list(cases(["tiny"], 4))
    assert len(all_cases) == len(set(all_cases)) == 10
    assert len(list(cases(list(MODELS), 4))) == 30
    results = tmp_path / "gpu.jsonl"
    results.write_text("".join(json.dumps(asdict(case)) + "\n" for case in all_cases))
    ended = run("--models", "tiny", "--steps", "4", "--results", str(results))
    assert ended.stdout.splitlines() == ["gpu: all 10 cases are there."], ended.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_a_real_model_is_refused_in_one_line() -> None:
    ended = run("--models", "llama-2-7b")
    assert ended.returncode
    assert ended.stderr.strip().splitlines()[-1].startswith("gpu: there is no GPU here.")


def test_the_rule_of_a_budget_has_the_limit_of_a_paired_difference(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARK.parent))
    upper_limits = importlib.import_module("one_rule").upper_limits
    generator = np.random.default_rng(0)
    tokens = generator.integers(1, 9, 40).astype(float)
    before = generator.gamma(2.0, 1.0, 40)
    after = before + generator.normal(0.2, 0.5, (3, 40))
    counts = generator.multinomial(300, np.full(40, 1 / 40))
    limits = upper_limits(after - before, tokens, counts.astype(float))
    for row, limit in zip(after, limits, strict=True):
        pair = (np.repeat(np.stack([nats, tokens]), counts, axis=1) for nats in (row, before))
        assert limit == pytest.approx(paired_difference(*pair).estimate("nats").high)


def test_dual_ascent_is_a_multiplier_s_gradient_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """λ rises by η times the violation and never falls below 0: plain SGD on the dual."""
    monkeypatch.syspath_prepend(str(BENCHMARK.parent))
    ascent = importlib.import_module("learned_constraints").DualAscent(limit=1.0, rate=0.5)
    multiplier = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([multiplier], lr=0.5, maximize=True)
    step = SimpleNamespace(task_loss=torch.tensor(2.0), safety_loss=torch.tensor(3.0))
    for safety_loss in (1.4, 1.2, 0.1, 0.9, 2.0):
        assert ascent.loss(step) == pytest.approx(2.0 + 3.0 * multiplier.item())
        ascent.observe(0.0, safety_loss)
        optimizer.zero_grad()
        (multiplier * (safety_loss - 1.0)).sum().backward()
        optimizer.step()
        multiplier.data.clamp_(min=0)
        assert ascent.penalty == pytest.approx(multiplier.item())
    assert ascent.penalty == pytest.approx(0.5)


@pytest.mark.parametrize("mu", [1.0, 0.1, 0.01])
def test_the_relaxed_barrier_is_a_logarithm_with_its_tangent(
    mu: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARK.parent))
    barrier = importlib.import_module("learned_constraints").RelaxedBarrier(limit=1.5)
    barrier.mu = mu

    def value_and_slope(z: float) -> tuple[float, float]:
        safety_loss = torch.tensor(1.5 + z, dtype=torch.float64, requires_grad=True)
        loss = barrier.loss(SimpleNamespace(task_loss=torch.tensor(0.0), safety_loss=safety_loss))
        (slope,) = torch.autograd.grad(loss, safety_loss)
        return loss.item(), slope.item()

    inside = -2 * mu**2
    assert value_and_slope(inside) == pytest.approx((-mu * np.log(-inside), -mu / inside))
    at_switch, tangent = -mu * np.log(mu**2), 1 / mu
    for z in (-(mu**2), 0.0, 0.3):
        assert value_and_slope(z) == pytest.approx((at_switch + tangent * (z + mu**2), tangent))
