"""A saved model or adapter is repaired and saved again."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from trimtab.analysis.changes import SAFETY_LOSS, LossChange
from trimtab.analysis.standing import Limit
from trimtab.config.data_source import DataSource, Lengths
from trimtab.config.experiment import Measuring
from trimtab.config.methods import number, published
from trimtab.data.encoding import encode
from trimtab.data.sources import read_rows
from trimtab.data.splits import halves_by_prompt
from trimtab.errors import UserError
from trimtab.measure.distance import distance
from trimtab.measure.losses import HeldOutRows, held_out_loss, loss_rise
from trimtab.models import (
    adapter_base,
    are_same_weights,
    limits_of,
    load_model,
    model_parts,
    to_device,
)
from trimtab.report.model_card import repaired_card
from trimtab.results.checksums import digest_of
from trimtab.results.files import (
    only_writer,
    require_nothing_there,
)
from trimtab.results.gaps import OVER_START
from trimtab.runner.answering import Answering, judges_of, prompts_to_ask
from trimtab.runner.rates import (
    Asking,
    JudgedRates,
    RateSearch,
    RatesOnHalves,
    answers_folder,
    require_rates,
)
from trimtab.runner.saved_models import adapter_on, is_adapter, written_model
from trimtab.runner.trainings import TrainingWatcher
from trimtab.stats import Estimate
from trimtab.train.baselines.interpolation import Interpolation
from trimtab.train.baselines.post_hoc import PostHocMethod
from trimtab.train.budget_search import largest_within
from trimtab.train.methods import method_at

log = logging.getLogger(__name__)

RATES_FILE, BUDGET_FILE = "rates.json", "budget.json"


def repair_saved(
    method: str, value: float, model: Path, aligned: str, unaligned: str | None, out: Path
) -> float:
    """Apply a method after training to the model in `model`, and save the result to `out`.

    A folder with an adapter_config.json is an adapter on `aligned`.

    Returns:
        The distance of the result from the aligned model.

    Raises:
        UserError: `out` holds something, a model cannot be loaded or does not fit the others, or
            one that the method needs is missing.
    """
    repair = method_at(published(method), value)
    assert isinstance(repair, PostHocMethod)
    if repair.needs_unaligned and unaligned is None:
        raise UserError(f"{method} needs the model from before it was aligned. Give --unaligned.")
    _require_out(out, model)
    pair = _Pair(model, aligned)
    before = load_model(unaligned)[0] if unaligned else None
    repaired = repair.apply(pair.tuned(base_of_its_own=repair.merges), pair.start, before)
    moved = distance(repaired, pair.start)
    card = partial(repaired_card, published(method), value, str(model), aligned, unaligned, moved)
    with written_model(out, pair.tokenizer, card=card) as unfinished:
        repaired.save_pretrained(unfinished)
    return moved


@dataclass(frozen=True)
class RiseOnHalves:
    """How far the safety loss of a chosen model rose over θ_s, nats per token."""

    budget: float
    chosen_rise: Estimate
    """On the rows that it was chosen by."""
    rise: Estimate
    """On those that took no part."""


@dataclass(frozen=True)
class Interpolated:
    """The model (1 − a)·θ + a·θ_s that was chosen, and by what."""

    share: float
    """a, the aligned model's share."""
    distance: float
    """From the aligned model."""
    rates: JudgedRates | None = None
    """What it answers, where it was chosen by that."""
    rise: RiseOnHalves | None = None
    """Of its safety loss, where it was chosen by a budget."""

    def card(self, model: str, aligned: str, folder: Path, **measured: Any) -> str:
        """The card of θ, `model`, brought so near to `aligned`; its files are in `folder`."""
        return repaired_card(
            published("wise-ft"),
            self.share,
            model,
            aligned,
            None,
            self.distance,
            folder,
            **measured,
        )


def interpolate_to_rates(
    model: Path,
    aligned: str,
    out: Path,
    limits: Sequence[Limit],
    asking: Asking,
    watcher: TrainingWatcher,
    max_prompt: int = 512,
) -> Interpolated:
    """Save the model between θ_s and θ (WiSE-FT) that keeps to limits on judged rates.

    It is the one with the least share of θ_s that `most_capable_within` finds, which says what is
    guaranteed, on one half of the prompts; the other half tells. Answers and judgements are kept
    beside `out`, in a folder of its name with -answers, by what the two models are made of: a run
    that was killed, or one with another limit, asks for none again.

    Args:
        limits: on rates.
        asking: prompts and judges.
        max_prompt: where prompts are cut, in tokens.

    Raises:
        UserError: no share keeps to the limits, there are no prompts or too few, `out` holds
            something, or a model cannot be loaded or does not fit the other.
    """
    require_rates(limits)
    answers = asking.over(None)
    judges_of(answers)
    rates = RatesOnHalves(prompts_to_ask(answers, 0, Path(), warning=watcher.warned), limits, 0)
    _require_out(out, model)
    pair = _Pair(model, aligned)
    context = limits_of(pair.start).context
    prompt = max_prompt if context is None else min(max_prompt, max(1, context - answers.tokens))

    def model_at(place: float) -> tuple[str, Any]:
        return f"wise-ft-{1 - place:.6g}", pair.at(place)

    whole = out.resolve()
    folder = whole.with_name(f"{whole.name}-answers")
    with only_writer(folder):
        answering = Answering(rates.prompts, answers, prompt, pair.start, pair.tokenizer, folder)
        models_folder = folder / _models_digest(str(model), aligned)
        answering = answering.in_folder(answers_folder(models_folder, answering))
        search = RateSearch(answering, rates, model_at, watcher)
        place, _, judged_rates = search.choice(
            lambda place: f"a share of {number(1 - place)} of θ_s"
        )
    repaired = pair.at(place)
    interpolated = Interpolated(1 - place, distance(repaired, pair.start), judged_rates)
    card = partial(
        interpolated.card,
        str(model),
        aligned,
        rates=judged_rates.changes,
        judges=judged_rates.judges,
    )
    with written_model(out, pair.tokenizer, {RATES_FILE: interpolated}, card) as unfinished:
        repaired.save_pretrained(unfinished)
    return interpolated


def interpolate_to_budget(
    model: Path,
    aligned: str,
    out: Path,
    budget: float,
    safety: DataSource,
    lengths: Lengths = Lengths(),  # noqa: B008  # frozen
    measuring: Measuring = Measuring(),  # noqa: B008
) -> Interpolated:
    """Save the model between θ_s and θ (WiSE-FT) that spends a budget of safety loss.

    It is the one with the least share of θ_s that is found at which the 95 % interval of
    L_ŝ − L_ŝ(θ_s) ends within the budget, on one half of the safety rows, divided by prompt; what
    is told of it is measured on the other half.

    Args:
        budget: above 0, nats per token.
        safety: rows that neither model was trained on.

    Raises:
        UserError: the budget is not above 0, the rows are too few, `out` holds something, or a
            model cannot be loaded or does not fit the other.
    """
    if not budget > 0:
        raise UserError(
            f"budget {budget:g} must be above 0: between the aligned model and another the safety "
            "loss is at best unchanged. A dial can lower it: trimtab dial train."
        )
    _require_out(out, model)
    rows = read_rows(safety)
    pair = _Pair(model, aligned)
    choosing, held_out = (
        HeldOutRows.of(
            encode(half, pair.tokenizer, lengths, limits_of(pair.start)), half, safety.repeats
        )
        for half in halves_by_prompt(rows, 0, f"safety {safety.path}", safety.repeats)
    )
    before = held_out_loss(pair.start, choosing, measuring)

    def rise_at(place: float) -> Estimate:
        return loss_rise(held_out_loss(pair.at(place), choosing, measuring), before)

    place, chosen_by = largest_within(rise_at, budget)
    repaired = pair.at(place)
    first, last = (held_out_loss(end, held_out, measuring) for end in (pair.start, repaired))
    rise = RiseOnHalves(budget, chosen_by, loss_rise(last, first))
    interpolated = Interpolated(1 - place, distance(repaired, pair.start), rise=rise)
    over_start = replace(rise.rise, unit=OVER_START)
    change = LossChange(SAFETY_LOSS, safety.path, first.per_token, last.per_token, over_start)
    card = partial(interpolated.card, str(model), aligned, losses=[change])
    with written_model(out, pair.tokenizer, {BUDGET_FILE: interpolated}, card) as unfinished:
        repaired.save_pretrained(unfinished)
    return interpolated


def _require_out(out: Path, model: Path) -> None:
    if out.resolve() == model.resolve():
        raise UserError(f"{out} is the model itself. Give another --out.")
    require_nothing_there(out)


class _Pair:
    """θ_s, and the model θ that was fine-tuned from it."""

    def __init__(self, model: Path, aligned: str) -> None:
        self.model, self.aligned = model, aligned
        start, self.tokenizer = load_model(aligned)
        self.start = to_device(start)
        if is_adapter(model):
            _require_its_base(str(model), aligned, self.start)

    def tuned(self, base_of_its_own: bool = False) -> Any:
        """θ to write into, read anew; an adapter lies on θ_s itself, unless it is to merge."""
        if is_adapter(self.model):
            return adapter_on(self.start, self.aligned, self.model, base_of_its_own)
        return to_device(load_model(str(self.model))[0])

    def at(self, place: float) -> Any:
        """The model at a place between θ_s, at 0, and θ, at 1."""
        return Interpolation(1 - place).apply(self.tuned(), self.start)


def _require_its_base(model: str, aligned: str, start: PreTrainedModel) -> None:
    """Whoever loads the adapter `model` has its own base below it, which is to be `start`.

    Raises:
        UserError: it is another model.
    """
    base = adapter_base(model)
    is_same = None if base is None else are_same_weights(base, aligned, start)
    if is_same is None:
        named = "names no model that lies here" if base is None else f"is on {base}"
        log.warning(
            "%s %s: whether %s has the same weights is not known. What is measured is the adapter "
            "on %s.",
            *(model, named, aligned, aligned),
        )
    elif not is_same:
        raise UserError(
            f"{model} is an adapter on {base}, and the aligned model {aligned} has other weights: "
            f"what is measured would not be what is loaded. Give --aligned {base}."
        )


def _models_digest(*names: str) -> str:
    """Of what they are, so that a model trained anew is not taken for the one before."""
    return digest_of(json.dumps([model_parts(name) or name for name in names], sort_keys=True))
