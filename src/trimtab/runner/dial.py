"""A dial: trained once, measured along its settings, and set to a safety budget."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.analysis.changes import ORIGINAL_LOSS, SAFETY_LOSS, TASK_LOSS, LossChange
from trimtab.analysis.labels import VERDICTS
from trimtab.analysis.results import read_settings
from trimtab.analysis.standing import Limit, Metric
from trimtab.config.data_source import Lengths
from trimtab.config.experiment import Answers, Dial, Experiment
from trimtab.config.grid import Plan, Run
from trimtab.config.methods import ALIGNED, number
from trimtab.config.yaml_io import plain_values
from trimtab.data.encoding import encode
from trimtab.data.rows import Row, row_weights
from trimtab.data.splits import Roles, Split, halves_by_prompt, read_roles
from trimtab.errors import UserError
from trimtab.measure.generation import sampled_answers
from trimtab.measure.losses import HeldOutRows, held_out_loss, loss_rise
from trimtab.measure.refusals import is_refusal
from trimtab.models import limits_of
from trimtab.report.model_card import Origin, trained_card
from trimtab.results.data_summary import read_data
from trimtab.results.files import (
    only_writer,
    read_if_whole,
    require_nothing_there,
)
from trimtab.results.gaps import OVER_START
from trimtab.results.layout import DIAL_FOLDER
from trimtab.results.result import Estimate, Point
from trimtab.results.samples import Answer, Sample, read_samples, shown, write_samples
from trimtab.results.store import PointsFile
from trimtab.runner.answering import (
    Answering,
    prompts_of_experiment,
    read_rows_and_prompts,
)
from trimtab.runner.folder import claim, record_inputs
from trimtab.runner.kept_dial import KeptDial, kept_dial, training_of
from trimtab.runner.library_settings import check_library_settings
from trimtab.runner.processes import processes
from trimtab.runner.rates import (
    Asking,
    JudgedRates,
    RateSearch,
    RatesOnHalves,
    answers_folder,
    limit_lines,
    prompts_digest,
    require_limits_to_ask_for,
    require_rates,
)
from trimtab.runner.runner import Runner, TrainedDial, forget_checkpoints
from trimtab.runner.saved_models import written_model
from trimtab.runner.sweep import SweepWatcher
from trimtab.stats import LimitVerdict, verdict
from trimtab.train.budget_search import largest_within
from trimtab.train.objectives.endpoints import Endpoints, load_endpoints

SETTING_FILE = "setting.json"
SAMPLED_SETTINGS = (0.0, 0.5, 1.0)

_COST_FILE = "training.json"
_ANSWER_TOKENS = 48
_CONTEXT = 1024
"""What a model is taken to read that does not say."""


def dial_plan(experiment: Experiment, folder: Path) -> tuple[Plan, Plan]:
    """The one training of the experiment's dial, and what of it `folder` still lacks."""
    spec = training_of(experiment)
    plan = Plan((), (Run(spec, (spec,)),))
    return plan, Plan((), ()) if (folder / DIAL_FOLDER).exists() else plan


def train_dial(experiment: Experiment, folder: Path, watcher: SweepWatcher, restart: bool) -> None:
    """Train both ends of the experiment's dial into `folder`/dial; nothing where they are there.

    Raises:
        UserError: the folder holds another experiment, is being written by another process, or
            the model or the data cannot be read.
    """
    processes()
    check_library_settings(experiment)
    with only_writer(folder):
        claim(experiment, folder, restart)
        finished, spec = folder / DIAL_FOLDER, training_of(experiment)
        if finished.exists():
            forget_checkpoints(folder, spec.folder)
            return
        roles, _ = read_rows_and_prompts(experiment)
        for warning in roles.warnings:
            watcher.warned(warning)
        record_inputs(roles, experiment, folder)
        runner = Runner(experiment, roles, folder, watcher)
        dial = runner.trained_dial(spec)
        cost = _Cost(dial.train_tokens, dial.wall_seconds)
        with written_model(finished, costs={_COST_FILE: cost}) as unfinished:
            dial.endpoints.save(unfinished, runner.tokenizer)
        forget_checkpoints(folder, spec.folder)


def measure_curve(folder: Path, settings: int, samples: int, watcher: SweepWatcher) -> list[Point]:
    """θ_s and θ(α) at evenly spaced α on held-out rows, each written as it is measured.

    Args:
        settings: how many, both ends included; those that are there already are kept.
        samples: how many prompts of the task and of the safety data to answer at α = 0, ½ and 1.

    Raises:
        UserError: the folder holds no trained dial, or that of a sweep, which has measured it
            itself, or fewer than two settings are asked for.
    """
    if settings < 2:
        raise UserError(f"{settings} settings make no curve. Give --settings 2 or more.")
    kept = kept_dial(folder)
    if kept.is_of_sweep:
        raise UserError(
            f"{folder} is a dial of a sweep, which measures the settings that its grid names. Add "
            "values to the grid in another folder, or train the dial alone: trimtab dial train."
        )
    experiment = kept.experiment
    with only_writer(folder):
        points_file = PointsFile(folder, experiment.known_entropies)
        start = replace(kept.spec, method=ALIGNED, seed=0)
        specs = [kept.at(float(alpha)) for alpha in np.linspace(0, 1, settings)]
        plan = Plan((start,), tuple(Run(spec, (spec,)) for spec in specs))
        remaining = plan.without({point.spec for point in points_file.points})
        answered = samples == 0 or bool(read_samples(folder))
        watcher.planned(plan, remaining)
        if not remaining.specs and answered:
            return points_file.points
        opened = _opened(kept, read_roles(experiment), watcher)
        runner, cost = opened.runner, _cost_of(kept.ends)
        dial = TrainedDial(opened.endpoints, cost.train_tokens, cost.wall_seconds)
        points_file.add(runner.measured_start(remaining.aligned))
        for run in remaining.runs:
            name = kept.name_at(run.training.value or 0.0)
            points_file.add(runner.setting_measured(name, dial, run.training))
            watcher.measured(points_file.points[-1:])
        if not answered:
            write_samples(folder, list(_sampled(opened, samples)))
        return points_file.points


@dataclass(frozen=True)
class ChosenSetting:
    """A setting of the dial, and what was measured there.

    `chosen_rise` is L_ŝ(θ(α)) − L_ŝ(θ_s) on the rows that α was chosen by; None without a budget.
    The losses are on held-out rows that took no part, so that the choice does not flatter them.
    """

    alpha: float
    penalty: float
    budget: float | None
    chosen_rise: Estimate | None
    safety: LossChange
    task: LossChange
    original: LossChange | None
    """On the original safety data, where they were given."""
    rates: JudgedRates | None = None
    """What it answers, where the setting was chosen by limits on rates; on prompts, not rows."""

    @property
    def losses(self) -> tuple[LossChange, ...]:
        """All that were measured."""
        return tuple(loss for loss in (self.safety, self.original, self.task) if loss is not None)

    @property
    def rise(self) -> Estimate:
        """L_ŝ(θ(α)) − L_ŝ(θ_s) on the rows that took no part."""
        assert self.safety.change is not None
        return self.safety.change

    @property
    def verdict(self) -> LimitVerdict | None:
        """Whether the rows that took no part find it within the budget; None without one."""
        return None if self.budget is None else verdict(self.rise, self.budget)


def set_dial(
    folder: Path,
    out: Path,
    watcher: SweepWatcher,
    alpha: float | None = None,
    budget: float | None = None,
    merged: bool = False,
    limits: Sequence[Limit] = (),
    asking: Asking = Asking(),  # noqa: B008  # frozen
) -> ChosenSetting:
    """Write θ(α) to `out`: α as given, or the largest one found within the budget and the limits.

    Within the budget is where the 95 % interval of L_ŝ(θ(α)) − L_ŝ(θ_s) is. With a budget alone
    that α is found by bisection on one half of the held-out safety rows, divided by prompt; all
    that is told of it is measured on the other. Rows that enumerate a finite world are not divided.

    Limits are on judged rates, and kept where a rate's 95 % interval is within. Models answer the
    prompts and are judged, half of the prompts choose, and the others tell. What the search
    guarantees says `most_capable_within`: the setting was itself measured, and is within. Answers
    are kept in `folder`, so that another limit, or a run that was killed, asks for none again.

    Args:
        folder: what `trimtab dial train` wrote, or a dial among the models that a sweep kept.
        limits: on rates; with a budget, both have to be kept.
        asking: prompts and judges in place of the experiment's `answers`.

    Raises:
        UserError: not one of `alpha` and what is to be kept is given, no setting keeps it, there
            are no prompts or too few, `out` is there already, or the folder holds no trained dial.
    """
    if (alpha is None) == (budget is None and not limits):
        raise UserError(
            "a dial is set to an alpha, or to a budget and limits on rates. Give one of the two."
        )
    require_limits_to_ask_for(limits, asking)
    require_rates(limits)
    if alpha is not None and not 0 <= alpha <= 1:
        raise UserError(f"alpha {alpha:g} must lie between 0, the safest, and 1.")
    require_nothing_there(out)
    kept = kept_dial(folder)
    experiment = kept.experiment
    answers = asking.over(experiment.answers) if limits else None
    roles, rates = read_roles(experiment), None
    if answers is not None:
        prompts = prompts_of_experiment(replace(experiment, answers=answers), roles, watcher.warned)
        rates = RatesOnHalves(prompts, limits, experiment.split_seed)
    if merged and experiment.load.is_quantised:
        raise UserError(
            f"the dial's adapters cannot be merged into {experiment.load.quantization} weights "
            "without loss. Leave --merged out."
        )
    with only_writer(kept.folder):
        opened = _opened(kept, roles, watcher)
        chosen = _chosen(opened, alpha, budget, rates, answers)
        tokenizer, card = opened.runner.tokenizer, partial(_card, chosen, kept, answers)
        with written_model(out, tokenizer, {SETTING_FILE: chosen}, card) as unfinished:
            opened.endpoints.save_at(chosen.alpha, unfinished, merged)
    return chosen


def _card(chosen: ChosenSetting, kept: KeptDial, answers: Answers | None, model: Path) -> str:
    spec = kept.at(chosen.alpha)
    training_text = f"It was trained at λ = {number(chosen.penalty)} of the dial."
    if chosen.budget is not None and chosen.verdict is not None:
        training_text += (
            f" The setting was chosen for a safety budget of {number(chosen.budget)} nats per "
            f"token; on rows that took no part: {VERDICTS[chosen.verdict]}."
        )
    training_text += "".join(
        f" The setting was chosen for {line}." for line in limit_lines(chosen.rates)
    )
    settings = dict(read_settings(kept.folder))
    if answers is not None:
        settings["answers"] = plain_values(replace(kept.experiment, answers=answers))["answers"]
    origin = Origin(settings, read_data(kept.folder))
    rates = chosen.rates.changes if chosen.rates else ()
    return trained_card(spec, chosen.losses, (training_text,), origin, model, rates=rates)


def _answering(runner: Runner, rates: RatesOnHalves, answers: Answers) -> Answering:
    """Answers to the experiment's own prompts are those that its curve asked for too."""
    prompt, folder = runner.experiment.lengths.prompt, runner.folder
    asking = Answering(rates.prompts, answers, prompt, runner.aligned, runner.tokenizer, folder)
    own = runner.evaluator.answering
    if own is not None and prompts_digest(own) == prompts_digest(asking):
        return asking
    return asking.in_folder(answers_folder(folder, asking))


def _chosen(
    opened: _OpenDial,
    alpha: float | None,
    budget: float | None,
    rates: RatesOnHalves | None,
    answers: Answers | None,
) -> ChosenSetting:
    """The setting, chosen on half of the safety rows where a budget chooses, told on the others."""
    rows = _HeldOut.of(opened, divided=budget is not None)
    chosen_rise: Estimate | None = None
    judged_rates: JudgedRates | None = None
    rise_at = None if budget is None else _rises(opened, rows.choosing)
    if rates is not None and answers is not None:
        search = _search(opened, rates, answers, budget, rise_at)
        alpha, standing, judged_rates = search.choice(lambda setting: f"α = {number(setting)}")
        chosen_rise = standing.measured.get("safety loss")
    elif alpha is None:
        assert budget is not None
        assert rise_at is not None
        alpha, chosen_rise = largest_within(rise_at, budget)
        _require_within(chosen_rise, budget)

    experiment, endpoints, spec = opened.kept.experiment, opened.endpoints, opened.kept.spec
    endpoints.set_alpha(alpha)

    def changed(what: str, data: str, held_out: HeldOutRows) -> LossChange:
        before, now = (
            held_out_loss(model, held_out, experiment.measure)
            for model in (opened.runner.aligned, endpoints.model)
        )
        rise = replace(loss_rise(now, before), unit=OVER_START)
        return LossChange(what, data, before.per_token, now.per_token, rise)

    return ChosenSetting(
        alpha=alpha,
        penalty=(experiment.dial or Dial()).penalty_at(alpha),
        budget=budget,
        chosen_rise=chosen_rise,
        safety=changed(SAFETY_LOSS, str(spec.proxy), rows.telling),
        task=changed(TASK_LOSS, spec.task, rows.task),
        original=changed(ORIGINAL_LOSS, "original", rows.original) if rows.original else None,
        rates=judged_rates,
    )


@dataclass(frozen=True)
class _HeldOut:
    """Held-out rows: of the safety data those that choose and those that tell, and the others."""

    choosing: HeldOutRows
    telling: HeldOutRows
    task: HeldOutRows
    original: HeldOutRows | None

    @classmethod
    def of(cls, opened: _OpenDial, *, divided: bool) -> _HeldOut:
        experiment, spec, roles = opened.kept.experiment, opened.kept.spec, opened.roles
        assert spec.proxy is not None
        safety, task = roles.safety[spec.proxy], roles.task[spec.task]
        tokenizer = opened.runner.tokenizer

        def encoded(rows: Sequence[Row], split: Split) -> HeldOutRows:
            return HeldOutRows.of(encode(rows, tokenizer, experiment.lengths), rows, split.repeats)

        rows = list(safety.held_out)
        choosing, telling = _halves(safety, experiment.split_seed) if divided else (rows,) * 2
        return cls(
            encoded(choosing, safety),
            encoded(telling, safety),
            encoded(task.held_out, task),
            encoded(roles.original.held_out, roles.original) if roles.original else None,
        )


def _rises(opened: _OpenDial, rows: HeldOutRows) -> Callable[[float], Estimate]:
    """L_ŝ(θ(α)) − L_ŝ(θ_s) at a setting."""
    measuring = opened.kept.experiment.measure
    start = held_out_loss(opened.runner.aligned, rows, measuring)

    def rise_at(setting: float) -> Estimate:
        opened.endpoints.set_alpha(setting)
        return loss_rise(held_out_loss(opened.endpoints.model, rows, measuring), start)

    return rise_at


def _search(
    opened: _OpenDial,
    rates: RatesOnHalves,
    answers: Answers,
    budget: float | None,
    rise_at: Callable[[float], Estimate] | None,
) -> RateSearch:
    """For a setting within limits on rates and, with a budget, within that."""

    def model_at(setting: float) -> tuple[str, Any]:
        opened.endpoints.set_alpha(setting)
        return opened.kept.name_at(setting), opened.endpoints.model

    def rises(setting: float) -> dict[Metric, Estimate]:
        return {} if rise_at is None else {"safety loss": rise_at(setting)}

    beside = [] if budget is None else [Limit("safety loss", budget)]
    answering = _answering(opened.runner, rates, answers)
    return RateSearch(answering, rates, model_at, opened.runner.watcher, beside, rises)


def _require_within(rise: Estimate, budget: float) -> None:
    if verdict(rise, budget) != "within":
        raise UserError(
            f"no setting is within a budget of {budget:g} nats per token: at α = 0, the safest, "
            f"the safety loss is {rise.value:.4f} above that of the aligned model, and by its "
            f"interval at most {rise.high:.4f}. Give a budget above {rise.high:.4f}, hold out "
            "more rows, or train the dial for more steps."
        )


def _halves(split: Split, split_seed: int) -> tuple[list[Row], list[Row]]:
    if row_weights(split.held_out) is not None:
        return list(split.held_out), list(split.held_out)
    return halves_by_prompt(split.held_out, split_seed, split.label, split.repeats)


def _sampled(opened: _OpenDial, count: int) -> Iterator[Sample]:
    runner, endpoints, roles = opened.runner, opened.endpoints, opened.roles
    context = limits_of(runner.aligned).context or _CONTEXT
    tokens = min(_ANSWER_TOKENS, context // 2)
    lengths = Lengths(
        prompt=min(runner.experiment.lengths.prompt, context - tokens), response=tokens
    )
    for is_safety, splits in ((False, roles.task), (True, roles.safety)):
        (split,) = splits.values()
        is_real = row_weights(split.held_out) is None
        distinct_prompts = list(dict.fromkeys(row.prompt for row in split.held_out))
        prompts = distinct_prompts[:: max(1, len(distinct_prompts) // count)][:count]
        answers: list[list[Answer]] = [[] for _ in prompts]
        for alpha in SAMPLED_SETTINGS:
            endpoints.set_alpha(alpha)
            texts = sampled_answers(
                endpoints.model, runner.tokenizer, prompts, lengths, greedy=True
            )
            for prompt_answers, text in zip(answers, texts, strict=True):
                prompt_answers.append(
                    shown(alpha, text, is_refusal(text) if is_real and is_safety else None)
                )
        for prompt, prompt_answers in zip(prompts, answers, strict=True):
            yield Sample(is_safety, prompt[-1].content, tuple(prompt_answers))


@dataclass(frozen=True)
class _OpenDial:
    """A kept dial in memory, with the start and the data."""

    kept: KeptDial
    runner: Runner
    endpoints: Endpoints
    roles: Roles


def _opened(kept: KeptDial, roles: Roles, watcher: SweepWatcher) -> _OpenDial:
    experiment, folder = kept.experiment, kept.folder
    record_inputs(roles, experiment, folder)
    runner = Runner(experiment, roles, folder, watcher)
    return _OpenDial(kept, runner, load_endpoints(kept.ends, runner.aligned), roles)


@dataclass(frozen=True)
class _Cost:
    """What the training of a dial took."""

    train_tokens: int
    wall_seconds: float


def _cost_of(ends: Path) -> _Cost:
    def read(path: Path) -> _Cost:
        return _Cost(**json.loads(path.read_bytes()))

    unknown = "the points say 0 for the tokens and seconds of training"
    return read_if_whole(ends / _COST_FILE, read, unknown) or _Cost(0, 0.0)
