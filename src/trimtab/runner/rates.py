"""A line of models held to limits on judged rates: chosen by half of the prompts, told by others.

The line leads from the safest model, at 0, to the most capable one, at 1: a dial's settings, or the
models between θ_s and a fine-tuned one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.analysis.changes import RateChange
from trimtab.analysis.labels import limit_verdict, rate_in_words
from trimtab.analysis.line_search import Found, most_capable_within
from trimtab.analysis.standing import RATE_OF, Limit, Metric, Standing
from trimtab.config.data_names import answers_data
from trimtab.config.data_source import DataSource
from trimtab.config.experiment import Answers
from trimtab.config.methods import ALIGNED
from trimtab.errors import UserError
from trimtab.evaluate.rates import ANSWERED, IN_SHORT, RATES, Rate
from trimtab.results.checksums import digest_of
from trimtab.results.generations import AskedPrompt
from trimtab.runner.answering import Answering, Judged
from trimtab.runner.trainings import TrainingWatcher
from trimtab.stats import Array, Estimate, LimitVerdict, exact_share, share, share_change

ASKED_FOLDER = "asked"
"""In a dial's folder, answers to prompts that its experiment does not name, a folder a set."""

_HALVES_SEED = 2**20
_FEWEST = 2
_OPTIONS = {"harmful": "--harmful", "benign": "--benign"}


@dataclass(frozen=True)
class Asking:
    """What a command asks for itself; what it leaves out is as the experiment has it."""

    harmful: tuple[DataSource, ...] = ()
    benign: tuple[DataSource, ...] = ()
    judges: tuple[str, ...] = ()
    rows: int | None = None
    """At most as many prompts of each source."""
    tokens: int | None = None
    """Where an answer ends at the latest."""

    def over(self, defaults: Answers | None) -> Answers:
        """The prompts and judges, those given in place of the known ones.

        Raises:
            UserError: there are no prompts.
        """
        answers = defaults
        if self.harmful or self.benign:
            answers = Answers(self.harmful, self.benign)
            if defaults is not None:
                answers = replace(answers, judges=defaults.judges, tokens=defaults.tokens)
        if answers is None:
            raise UserError(
                "a limit on a rate needs prompts to answer. Give --harmful or --benign, a known "
                "set or a file, and --judge."
            )
        if self.rows is not None:
            harmful, benign = (
                tuple(
                    replace(source, rows=min(self.rows, source.rows or self.rows))
                    for source in sources
                )
                for sources in (answers.harmful, answers.benign)
            )
            answers = replace(answers, harmful=harmful, benign=benign)
        return replace(
            answers,
            judges=self.judges or answers.judges,
            tokens=answers.tokens if self.tokens is None else self.tokens,
        )


@dataclass(frozen=True)
class HeldOutRate:
    """One rate of a chosen model, and of θ_s, as shares of prompts."""

    field: str
    """That of a result, such as harmful_rate."""
    limit: float | None
    at_least: bool
    chosen_by: Estimate
    """On the prompts that the model was chosen by, which flatters it."""
    rate: Estimate
    """On prompts that took no part in the choice."""
    start: Estimate
    """θ_s on the same prompts."""
    change: Estimate
    """Paired by prompt."""
    prompts: int
    """How many took no part."""
    choosing_prompts: int
    verdict: LimitVerdict | None
    """Whether the prompts that took no part find it within the limit; None without one."""

    @property
    def counts(self) -> Rate:
        """Which outcome it is the share of."""
        return next(rate for rate in RATES if rate.field == self.field)


@dataclass(frozen=True)
class JudgedRates:
    """What a chosen model answers, as the first judge counts it."""

    judges: tuple[str, ...]
    held_out: tuple[HeldOutRate, ...]

    @property
    def changes(self) -> list[RateChange]:
        """For a card: the rates on the prompts that took no part."""
        return [
            RateChange(rate.counts, rate.prompts, rate.start, rate.rate, rate.change)
            for rate in self.held_out
            if rate.counts in IN_SHORT
        ]


class RatesOnHalves:
    """Judged rates of models on two halves of the prompts, no prompt in both.

    Each kind of prompt is divided evenly, by the prompts and the seed alone, so that every model
    and every limit meets the same halves; a prompt that two sources have counts once.

    Raises:
        UserError: a limit is on a rate of prompts that are not there, or of so few that not even
            the best rate would be seen to keep it.
    """

    def __init__(self, prompts: Sequence[AskedPrompt], limits: Sequence[Limit], seed: int) -> None:
        self.prompts = prompts
        self.limits = [limit for limit in limits if limit.metric in RATE_OF]
        self.choosing, self.held_out = prompt_halves(prompts, seed)
        self._require_enough()

    def on_choosing(self, judged: Judged) -> dict[Metric, Estimate]:
        """The rates that limits are on, of the prompts that choose."""
        return {
            limit.metric: self._rate(judged, RATE_OF[limit.metric], self.choosing)
            for limit in self.limits
        }

    def compared_rates(self, judged: Judged, start: Judged) -> tuple[HeldOutRate, ...]:
        """Rates of a model beside those of θ_s: all whose prompts both halves have."""
        limits = {RATE_OF[limit.metric]: limit for limit in self.limits}
        compared_rates = []
        for rate in RATES:
            halves = (self.choosing, self.held_out)
            has_prompts = all(self._count(rate, half) for half in halves)
            if answers_data(rate.field) not in judged.counts or not has_prompts:
                continue
            after, before = (
                self._flags(judged_model, rate, self.held_out) for judged_model in (judged, start)
            )
            measured, limit = share(after, rate.unit), limits.get(rate)
            chosen_by = self._rate(judged, rate, self.choosing)
            compared_rates.append(
                HeldOutRate(
                    rate.field,
                    limit.value if limit else None,
                    limit.at_least if limit else False,
                    chosen_by,
                    measured,
                    share(before, rate.unit),
                    share_change(after, before, rate.unit),
                    len(after),
                    self._count(rate, self.choosing),
                    limit.verdict(measured) if limit else None,
                )
            )
        return tuple(compared_rates)

    def why_none(self, nearest: Found, place: str) -> str:
        """One line on the nearest place, and what would help.

        Args:
            place: the nearest model in words, such as "α = 0".
        """
        measured = nearest.standing.measured
        standings, remedies, is_beyond = [], [], []
        for limit, verdict in nearest.standing.verdicts.items():
            estimate, rate = measured[limit.metric], RATE_OF.get(limit.metric)
            if rate is None:
                standings.append(
                    f"{limit.metric} {estimate.value:.4f}, at most {estimate.high:.4f}, {verdict}"
                )
                is_beyond += [] if verdict == "within" else [limit]
                continue
            count = self._count(rate, self.choosing)
            standings.append(
                f"{limit.metric} {rate_in_words(estimate)} of {count} prompts, {verdict}"
            )
            if verdict == "within":
                continue
            rows = limit.rows_to_keep_it(estimate)
            if rows is None:
                is_beyond.append(limit)
            else:
                remedies.append(f"{_in_all(rows, rate)} would show it at that rate")
        if is_beyond:
            mend = "Give a wider limit"
            if all(RATE_OF.get(limit.metric) is not ANSWERED for limit in is_beyond):
                mend += ", or train with more weight on safety"
            mend += "."
        else:
            remedies_text = "; ".join(remedies)
            mend = (
                f"The interval, not the rate, is in the way: {remedies_text}. Give more, or a "
                "wider limit"
            )
            mend += "."
        limits_text = ", ".join(limit.in_words for limit in nearest.standing.verdicts)
        return (
            f"no setting is within {limits_text}. Nearest is {place}: {'; '.join(standings)}. "
            f"{mend}"
        )

    def _require_enough(self) -> None:
        for limit in self.limits:
            rate = RATE_OF[limit.metric]
            (kind,) = rate.kinds
            count = self._count(rate, self.choosing)
            if min(count, self._count(rate, self.held_out)) < _FEWEST:
                raise UserError(
                    f"{limit.in_words}: there are no {kind} prompts, or too few to choose by one "
                    f"half and to tell by the other. Give more ({_OPTIONS[kind]}, --rows)."
                )
            best = exact_share(count if limit.at_least else 0, count, rate.unit)
            if limit.verdict(best) == "within":
                continue
            rows = limit.rows_to_keep_it(best)
            if rows is None:
                raise UserError(
                    f"{limit.in_words}: no number of prompts can show that. Give a wider limit."
                )
            raise UserError(
                f"{limit.in_words}: of {count} prompts that choose, even the best rate is "
                f"{rate_in_words(best)}. It takes {_in_all(rows, rate)}. Give more "
                f"({_OPTIONS[kind]}, --rows), or a wider limit."
            )

    def _rate(self, judged: Judged, rate: Rate, half: NDArray[np.bool_]) -> Estimate:
        return share(self._flags(judged, rate, half), rate.unit)

    def _flags(self, judged: Judged, rate: Rate, half: NDArray[np.bool_]) -> Array:
        return judged.counts[answers_data(rate.field)][0][half[self._places(rate)]]

    def _count(self, rate: Rate, half: NDArray[np.bool_]) -> int:
        return int(half[self._places(rate)].sum())

    def _places(self, rate: Rate) -> NDArray[np.intp]:
        return np.flatnonzero([prompt.kind in rate.kinds for prompt in self.prompts])


class RateSearch:
    """Looks along a line of models for the most capable one within limits on judged rates.

    θ_s is asked first, as its answers say what is coherent.

    Args:
        answering: asks and judges the models.
        rates: of models on the two halves.
        model_at: the model at a place from 0 to 1, and the name that its answers are kept under.
        beside: other limits, such as one on the safety loss, and what is measured for them of the
            model at a place.
    """

    def __init__(
        self,
        answering: Answering,
        rates: RatesOnHalves,
        model_at: Callable[[float], tuple[str, Any]],
        watcher: TrainingWatcher,
        limits_beside: Sequence[Limit] = (),
        beside: Callable[[float], Mapping[Metric, Estimate]] = lambda place: {},
    ) -> None:
        self.answering = answering
        self.rates = rates
        self._model_at = model_at
        self._watcher = watcher
        self._limits = [*rates.limits, *limits_beside]
        self._beside = beside
        self._judged: dict[float, Judged] = {}
        self._start = self._judge(ALIGNED.name, answering.aligned)

    def choice(self, in_words: Callable[[float], str]) -> tuple[float, Standing, JudgedRates]:
        """The place as `most_capable_within` finds it, how it stands on what chose it, and what
        the other half of the prompts tells.

        Raises:
            UserError: no place is within the limits; the nearest is named, and what is lacking.
        """
        choice = most_capable_within(self._standing)
        if not choice.is_within:
            raise UserError(self.rates.why_none(choice, in_words(choice.place)))
        judged = self._judged[choice.place]
        rates = self.rates.compared_rates(judged, self._start)
        judges = tuple(judge.name for judge in self.answering.judges)
        return choice.place, choice.standing, JudgedRates(judges, rates)

    def _standing(self, place: float) -> Standing:
        name, model = self._model_at(place)
        self._judged[place] = self._judge(name, model)
        measured = self.rates.on_choosing(self._judged[place])
        return Standing.of({**measured, **self._beside(place)}, self._limits)

    def _judge(self, name: str, model: Any) -> Judged:
        self._watcher.doing(f"answering: {name}", len(self.answering.prompts))
        return self.answering.judged(name, model, self._watcher.stepped)


def prompt_halves(
    prompts: Sequence[AskedPrompt], seed: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which prompts choose and which tell, two masks of shape (prompts,).

    Each kind is divided evenly; a prompt that comes again is in neither, so that it counts once.
    """
    half_of: dict[tuple[tuple[str, str], ...], int] = {}
    masks = np.zeros((2, len(prompts)), dtype=bool)
    for kind in _OPTIONS:
        places = {
            prompt.messages: n
            for n, prompt in reversed(list(enumerate(prompts)))
            if prompt.kind == kind
        }
        new = sorted(messages for messages in places if messages not in half_of)
        drawn = np.random.default_rng(seed + _HALVES_SEED).permutation(len(new))
        half_of |= {new[place]: turn % 2 for turn, place in enumerate(drawn)}
        for messages, place in places.items():
            masks[half_of[messages], place] = True
    return masks[0], masks[1]


def prompts_digest(answering: Answering) -> str:
    """Tells sets of prompts, and how they are answered, apart."""
    prompts = [[prompt.messages, prompt.kind, prompt.prompt_set] for prompt in answering.prompts]
    return digest_of(json.dumps([prompts, asdict(answering.decoding)]))


def answers_folder(folder: Path, answering: Answering) -> Path:
    """Where answers to these prompts are kept apart from others."""
    return folder / ASKED_FOLDER / prompts_digest(answering)


def rate_lines(rates: JudgedRates) -> list[str]:
    """What is told of a chosen model, a line a rate: those with a limit first, θ_s beside."""
    lines = []
    for rate in sorted(rates.held_out, key=lambda rate: rate.limit is None):
        if rate.limit is None and rate.counts not in IN_SHORT and rate.rate.value == 0:
            continue
        line = (
            f"{rate.counts.brief} {rate_in_words(rate.rate)} of {rate.prompts} prompts that took "
            "no part in the choice"
        )
        if rate.verdict is not None and rate.limit is not None:
            line += f": {limit_verdict(rate.verdict, rate.limit)}"
        lines.append(f"{line}; θ_s {rate_in_words(rate.start)}")
    return lines


def limit_lines(rates: JudgedRates | None) -> list[str]:
    """The limits that a model was chosen for, and how the prompts that took no part find it."""
    return [
        f"{rate.counts.in_words} {'at least' if rate.at_least else 'at most'} "
        f"{100 * rate.limit:g} %; on {rate.prompts} prompts that took no part: "
        f"{limit_verdict(rate.verdict, rate.limit)}"
        for rate in (rates.held_out if rates else ())
        if rate.limit is not None and rate.verdict is not None
    ]


def require_limits_to_ask_for(limits: Iterable[Limit], asking: Asking) -> None:
    """Raises UserError: prompts or judges are given, and no limit to look at them for."""
    if not list(limits) and asking != Asking():
        raise UserError(
            "prompts, judges and their options are for a limit on a rate. Give --max-harmful, "
            "--min-refused or --min-answered."
        )


def require_rates(limits: Iterable[Limit]) -> None:
    """Raises UserError: a limit is not on a rate, or is given twice."""
    metrics = [limit.metric for limit in limits]
    for metric in metrics:
        if metric not in RATE_OF:
            raise UserError(f"{metric} is no rate. Give one of {', '.join(RATE_OF)}.")
        if metrics.count(metric) > 1:
            raise UserError(f"the {metric} has two limits. Give one.")


def _in_all(rows: int, rate: Rate) -> str:
    (kind,) = rate.kinds
    return f"{rows} {kind} prompts that choose ({2 * rows} in all)"
