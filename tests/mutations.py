"""Change the meaning of one line at a time; some test must fail each time.

`python tests/mutations.py` works through all of them in a copy of the sources (about a quarter of
an hour), with numbers behind it through those alone. It ends with 1 where a change went unnoticed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "src/trimtab"


@dataclass(frozen=True)
class Mutation:
    """A line that no longer does what it says, and the tests that are to notice."""

    what: str
    file: str
    line: str
    changed: str
    tests: str


MUTATIONS = (
    Mutation(
        "the penalty has the other sign",
        "train/objectives/alignment_loss.py",
        "return step.task_loss + self.penalty * safety",
        "return step.task_loss - self.penalty * safety",
        "tests/train/test_trainer.py -k two_token_means",
    ),
    Mutation(
        "task and safety are exchanged",
        "train/objectives/base.py",
        "summed = (self.loss_of_token * ~self.is_safety).sum()",
        "summed = (self.loss_of_token * self.is_safety).sum()",
        "tests/train/test_trainer.py -k two_token_means",
    ),
    Mutation(
        "the safety mean is taken over the tokens of both roles",
        "train/objectives/base.py",
        "loss: Tensor = summed / self.safety_tokens.clamp(min=1)",
        "loss: Tensor = summed / (self.safety_tokens + self.task_tokens).clamp(min=1)",
        "tests/train/test_trainer.py -k two_token_means",
    ),
    Mutation(
        "a second batch repeats the safety rows of the first",
        "train/role_batches.py",
        "safety = [self.safety.batch(number) for number in numbers]",
        "safety = [self.safety.batch(first) for number in numbers]",
        "tests/train/test_objectives_by_batches.py -k 'accumulation and loss-penalty'",
    ),
    Mutation(
        "the router's loss is left out",
        "train/trainer.py",
        "self.router_aux_loss_coef / batches if self.aux_loss_enabled else None,",
        "0.0 if self.aux_loss_enabled else None,",
        "tests/train/test_mixture_of_experts.py",
    ),
    Mutation(
        "a run that is at its end takes one step more",
        "train/trainer.py",
        "is_over or self.state.global_step >= self.state.max_steps",
        "is_over or self.state.global_step > self.state.max_steps",
        "tests/train/test_objectives.py -k 'last_checkpoint and loss-penalty'",
    ),
    Mutation(
        "safety rows are read by the form of the task's",
        "train/role_rows.py",
        "trainer.completion_only_loss = form.completion_only_loss",
        "pass",
        "tests/train/test_role_rows.py",
    ),
    Mutation(
        "rows without a label are kept",
        "train/role_rows.py",
        "if any(label != IGNORED for label in labels[1:])",
        "if True",
        "tests/train/test_role_rows.py -k 'label or cut'",
    ),
    Mutation(
        "the scaling α/r is lost",
        "measure/adapters.py",
        "scaling = layer.scaling[adapter]",
        "scaling = 1.0",
        "tests/measure/test_distance.py -k every_lora",
    ),
    Mutation(
        "experts are told apart in A as in B",
        "measure/distance.py",
        "b.reshape(len(b), b.shape[1] // experts, experts).permute(2, 0, 1) for b in factors",
        "b.reshape(len(b), experts, b.shape[1] // experts).permute(1, 0, 2) for b in factors",
        "tests/measure/test_distance.py -k fused",
    ),
    Mutation(
        "the ball is not kept",
        "train/objectives/proximal.py",
        "    if length > radius:",
        "    if length > radius * 1e9:",
        "tests/train/test_trainer.py -k ball",
    ),
    Mutation(
        "a proximal step without its 2",
        "measure/distance.py",
        "pull = step_size(self.weight).mul_(2 * penalty * self.scaling**2)",
        "pull = step_size(self.weight).mul_(penalty * self.scaling**2)",
        "tests/train/test_trainer.py -k minimiser",
    ),
    Mutation(
        "weights beside the adapter are not put back for the reference",
        "train/reference.py",
        "weight.data = start.to(weight.device)",
        "pass",
        "tests/train/test_reference.py -k bit_for_bit",
    ),
    Mutation(
        "rounding removes a part of the task's gradient",
        "train/baselines/gradient_surgery.py",
        "removed = min(0.0, inner) / squared if squared > smallest else 0.0",
        "removed = min(0.0, inner) / squared if squared > 0 else 0.0",
        "tests/train/baselines/test_baselines.py -k 'rounding'",
    ),
    Mutation(
        "left padding is cut off on the right",
        "train/length_bucketing.py",
        "begin, end = min(first[row] for row in places), max(last[row] for row in places)",
        "begin, end = 0, max(lengths[row] for row in places)",
        "tests/train/test_length_bucketing.py -k side",
    ),
    Mutation(
        "a budget is judged the wrong way round",
        "train/objectives/budget.py",
        "return verdict(self.change, self.budget)",
        "return verdict(self.change.minus(self.change.high), self.budget)",
        "tests/train/objectives/test_budget.py -k verdict",
    ),
    Mutation(
        "the setting within a budget is found by the change, and not by its interval",
        "train/budget_search.py",
        'if verdict(rise, budget) == "within":\n            low',
        "if rise.value <= budget:\n            low",
        "tests/train/objectives/test_budget.py -k binding",
    ),
    Mutation(
        "a torn checkpoint counts as whole",
        "train/checkpoints.py",
        "if is_whole(",
        "if True or is_whole(",
        "tests/train/test_checkpoints.py",
    ),
    Mutation(
        "an interval of 90 % in place of 95 %",
        "stats/estimate.py",
        "TAIL = 0.025",
        "TAIL = 0.05",
        "tests/test_stats.py",
    ),
    Mutation(
        "a studentised interval of 90 % in place of 95 %",
        "stats/resampling.py",
        "np.quantile(quotients, [1 - TAIL, TAIL])",
        "np.quantile(quotients, [0.95, 0.05])",
        "tests/test_stats.py",
    ),
    Mutation(
        "the ends of a studentised interval are exchanged",
        "stats/resampling.py",
        "low, high = loss.value - np.quantile(",
        "high, low = loss.value - np.quantile(",
        "tests/test_stats.py",
    ),
    Mutation(
        "another bootstrap at every call",
        "stats/resampling.py",
        "generator = np.random.default_rng(seed)",
        "generator = np.random.default_rng()",
        "tests/test_stats.py",
    ),
    Mutation(
        "the error of a ratio is that of its numerator",
        "stats/statistic.py",
        "(nats - value * tokens) / tokens.mean()",
        "(nats - nats.mean()) / tokens.mean()",
        "tests/test_stats.py",
    ),
    Mutation(
        "seeds add nothing to the error of rows",
        "stats/seeds.py",
        "high=mean + math.hypot(of_rows.high - mean, spread)",
        "high=of_rows.high",
        "tests/test_stats.py",
    ),
    Mutation(
        "differences are taken between models on other rows",
        "results/per_row_losses.py",
        "or ours.shape != theirs.shape",
        "or False",
        "tests/results/test_per_row_losses.py",
    ),
    Mutation(
        "rows of a finite distribution count alike",
        "measure/losses.py",
        "weights = held_out.weights / held_out.weights.sum()",
        "weights = np.full(len(nll), 1 / len(nll))",
        "tests/measure/test_losses.py",
    ),
    Mutation(
        "a long prompt loses its end",
        "data/encoding.py",
        "return first + ids[len(ids) - lengths.prompt + len(first) :]",
        "return first + ids[: lengths.prompt - len(first)]",
        "tests/data/test_encoding.py -k cut",
    ),
    Mutation(
        "held-out prompts are trained on",
        "data/splits.py",
        "train = [row for row in train if held_out.isdisjoint(_keys_of_leaks(row))]",
        "train = [row for row in train if True]",
        "tests/data",
    ),
    Mutation(
        "resamples without spread count as they are",
        "stats/resampling.py",
        "np.maximum(errors, _LEAST_ERROR * error)",
        "np.maximum(errors, 1e-12 * error)",
        "tests/test_stats.py",
    ),
    Mutation(
        "rows of one prompt are halves enough",
        "data/splits.py",
        "if min(_draws(first, repeats), _draws(second, repeats)) < _FEWEST_IN_A_HALF:",
        "if min(len(first), len(second)) < _FEWEST_IN_A_HALF:",
        "tests/data",
    ),
    Mutation(
        "a setting with fewer seeds is chosen for its luck",
        "analysis/groups.py",
        "        if most <= seeds_of[setting]",
        "        if seeds_of[setting]",
        "tests/analysis",
    ),
    Mutation(
        "means over other seeds are compared",
        "analysis/groups.py",
        "points=tuple(p for p in setting.points if p.seed in most)",
        "points=setting.points",
        "tests/analysis",
    ),
    Mutation(
        "a model is recommended that chance may have made the best",
        "analysis/overview.py",
        "and p_values[option.setting] < SIGNIFICANT",
        "and p_values[option.setting] < 1.0",
        "tests/analysis",
    ),
    Mutation(
        "the change from the start has the other sign",
        "results/gaps.py",
        "over_reference(loss.minus(before.value), ",
        "over_reference(before.minus(loss.value), ",
        "tests/results/test_per_row_losses.py src/trimtab/results/gaps.py",
    ),
    Mutation(
        "hypervolume measures the other side",
        "theory/area.py",
        "return float(widths @ (corner[1] - lowest))",
        "return float(widths @ (corner[0] - lowest))",
        "tests/theory/test_area.py",
    ),
)


def is_noticed(mutation: Mutation, copy: Path) -> bool:
    """Whether a test fails for the mutation, which is undone again."""
    file = copy / PACKAGE / mutation.file
    whole = file.read_text()
    assert mutation.line in whole, f"{mutation.file} no longer has: {mutation.line}"
    file.write_text(whole.replace(mutation.line, mutation.changed))
    try:
        command = f"{sys.executable} -m pytest -x -p no:cacheprovider {mutation.tests}"
        environment = os.environ | {"PYTHONPATH": str(copy / "src"), "OMP_NUM_THREADS": "1"}
        ended = subprocess.run(command, shell=True, cwd=copy, env=environment, capture_output=True)
        assert ended.returncode in (0, 1), ended.stdout.decode()[-2000:]
        return ended.returncode == 1
    finally:
        file.write_text(whole)


def main(numbers: list[int]) -> int:
    """Work through the mutations of these numbers, or all; 1 where one went unnoticed."""
    unnoticed = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        for part in ("src", "tests"):
            shutil.copytree(ROOT / part, copy / part)
        shutil.copy(ROOT / "pyproject.toml", copy)
        for number in numbers or range(len(MUTATIONS)):
            noticed = is_noticed(MUTATIONS[number], copy)
            unnoticed += not noticed
            verdict = "noticed" if noticed else "NOT NOTICED"
            print(f"{number:2} {verdict}: {MUTATIONS[number].what}", flush=True)
    print(f"{unnoticed} of {len(numbers or MUTATIONS)} went unnoticed")
    return int(unnoticed > 0)


if __name__ == "__main__":
    sys.exit(main([int(number) for number in sys.argv[1:]]))
