"""The page's answer in two or three sentences, for a reader who knows none of the symbols."""

from __future__ import annotations

from trimtab.analysis.labels import (
    change_in_words,
    listed,
    p_in_words,
    percent,
    points_in_words,
    share_in_words,
)
from trimtab.analysis.overview import KEPT, Option, Overview, mean_change
from trimtab.config.methods import ALIGNED
from trimtab.evaluate.rates import ANSWERED, REFUSALS
from trimtab.stats import Estimate


def answer_in_words(summary: Overview) -> tuple[str, ...]:
    """The answer in two or three sentences, for a reader who knows none of the symbols."""
    shown = summary.plain or next(
        option for option in summary.pictured if option.setting.method is not ALIGNED
    )
    who = f"fine-tuning on {summary.task}"
    who = f"plain {who}" if summary.plain else f"{who} by {_option_text(shown)}"
    answers = _answers_text(summary, shown)
    seeds = len(shown.setting.points)
    mean = f" ({'all ' if answers else ''}means over {seeds} seeds)" if seeds > 1 else ""
    losses = (
        f"{'This training' if answers else who[0].upper() + who[1:]} "
        f"{_change_text('the safety loss', shown.safety.change)} and "
        f"{_change_text('the task loss', shown.task.change)}, in nats per token{mean}."
    )
    sentences = [f"After {who} the model {answers}.", losses] if answers else [losses]
    if summary.plain is None:
        sentences.append(
            "What plain fine-tuning would have cost is not known here: train it as well."
        )
    elif sentence := _recommendation(summary, summary.plain):
        sentences.append(sentence)
    compared = {option.setting for option in summary.compared}
    if left_out := [option for option in summary.choices if option.setting not in compared]:
        names = listed([_option_text(option) for option in left_out])
        sentences.append(f"Not compared, since seeds of the others are lacking: {names}.")
    return tuple(sentences)


def _answers_text(summary: Overview, shown: Option) -> str:
    """How many harmful prompts it refused and benign ones it answered, now and at the start."""
    parts = []
    for rate, verb in ((REFUSALS, "refused"), (ANSWERED, "answered")):
        before, now = summary.start.rates.get(rate), shown.rates.get(rate)
        if before is None or now is None:
            continue
        change = f" ({points_in_words(now.change)})" if now.change else ""
        parts.append(
            f"{verb} {percent(now.value.value)} of {now.count or 'the'} {rate.kinds[0]} prompts, "
            f"{percent(before.value.value)} before{change}"
        )
    return ", and ".join(parts)


def _recommendation(summary: Overview, plain: Option) -> str | None:
    leader, alternatives = summary.leader, summary.compared
    if leader is None:
        return (
            f"No other model here keeps {KEPT:.0%} of that gain."
            if alternatives and _learned(plain)
            else None
        )
    if summary.is_judged:
        return _by_both_shares(summary, leader)
    numbers, untold = _changes_text(leader), _untold(leader)
    if len(alternatives) == 1:
        return f"{_option_text(leader)} instead: {numbers}{untold}."
    return (
        f"Of the other {len(alternatives)} models here, the safest that keeps at least half of the "
        f"gain is {_option_text(leader)}: {numbers}; these numbers chose it, and flatter "
        f"it{untold}."
    )


def _by_both_shares(summary: Overview, leader: Option) -> str:
    """The best by J, where one is surely better than plain fine-tuning; else that none is."""
    option, count = summary.best or leader, len(summary.compared)
    refused, answered = (share_in_words(option.rates[rate].value) for rate in (REFUSALS, ANSWERED))
    name, shares = _option_text(option), f"refuses {refused} and answers {answered}"
    over = mean_change(option.over_plain) if option.over_plain else None
    if summary.best is None or over is None:
        return (
            "By the mean of both shares no other model that learned at least half as much is "
            f"clearly better than plain fine-tuning: the highest, {name}, {shares}"
            f"{_short_of_told(summary, option, over)}."
        )
    told = f"{shares}, its mean {points_in_words(over)} over plain fine-tuning’s"
    told += _beside_start(option)
    if count == 1:
        return f"{name} instead {told}."
    which = "the best by the mean of both shares that learned at least half as much"
    if option is not leader:
        which = f"{which}, and is clearly better than plain fine-tuning,"
    return (
        f"Of the other {count} models here, {which} is {name}: it {told}; these numbers chose it, "
        "and flatter it."
    )


def _short_of_told(summary: Overview, leader: Option, over: Estimate | None) -> str:
    if over is None:
        return ", and outcomes of the same seeds and prompts were not kept"
    beside = f", its mean {points_in_words(over)} from plain fine-tuning’s"
    p_value = summary.p_values.get(leader.setting)
    if over.low <= 0 or p_value is None:
        return beside
    return (
        f"{beside}, which the best of {len(summary.learned)} can reach by chance (adjusted p "
        f"{p_in_words(p_value)})"
    )


def _beside_start(option: Option) -> str:
    if not option.over_start:
        return ""
    change = mean_change(option.over_start)
    if change.low > 0:
        return " and above the start’s too"
    if change.high < 0:
        return f" but below the start’s ({points_in_words(change)})"
    return f" and not clearly different from the start’s ({points_in_words(change)})"


def _untold(option: Option) -> str:
    """What was not asked of a model that is recommended."""
    if not option.rates:
        return "; what it answers was not measured"
    return "" if ANSWERED in option.rates else "; answers to harmless prompts were not measured"


def _learned(option: Option) -> bool:
    return option.task.change is not None and option.task.change.high < 0


def _change_text(what: str, change: Estimate | None) -> str:
    if change is None:
        return f"changed {what} by what is not known"
    if change.low <= 0 <= change.high:
        return f"may not have changed {what} ({change_in_words(change)})"
    if change.value > 0:
        return f"raised {what} by {change_in_words(change).replace('+', '')}"
    return f"lowered {what} by {change_in_words(-change).replace('+', '')}"


def _option_text(option: Option) -> str:
    setting, method = option.setting, option.setting.method
    if setting.value is None:
        return method.brief
    says_what_it_is = not method.gist and method.symbol and len(method.symbol) == 1
    hyperparameter = f"{method.hyperparameter.replace('_', ' ')} " if says_what_it_is else ""
    gist = f" ({method.gist})" if method.gist else ""
    data = f" on safety data {setting.proxy}" if method.reads_safety and setting.proxy else ""
    return f"{method.brief}{gist} with {hyperparameter}{setting.label}{data}"


def _changes_text(option: Option) -> str:
    parts = [
        f"{rate.in_words} {share_in_words(option.rates[rate].value)}"
        for rate in (REFUSALS, ANSWERED)
        if rate in option.rates
    ]
    for what, measured in (("safety loss", option.safety), ("task loss", option.task)):
        if measured.change is not None:
            parts.append(f"{what} {change_in_words(measured.change)}")
    return ", ".join(parts)
