"""A saved model or adapter is mended and saved again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimtab.analysis.selection import Limit
from trimtab.config.methods import number, published
from trimtab.errors import UserError
from trimtab.measure.distance import distance
from trimtab.models import limits_of, load_model, name_base_portably, to_device, with_adapter
from trimtab.report.model_card import repaired_card
from trimtab.results.checksums import CARD_FILE, digest_of, sha256_of, write_checksums
from trimtab.results.files import (
    only_writer,
    require_nothing_there,
    write_atomically,
    written_whole,
)
from trimtab.runner.answering import Answering, judges_of, prompts_to_ask
from trimtab.runner.rates import (
    Asking,
    JudgedRates,
    RateSearch,
    RatesOnHalves,
    answers_folder,
    require_rates,
)
from trimtab.runner.runner import TrainingWatcher
from trimtab.train.baselines.interpolation import Interpolation
from trimtab.train.baselines.post_hoc import PostHocMethod
from trimtab.train.methods import made_from

RATES_FILE = "rates.json"


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
    repair = made_from(published(method), value)
    assert isinstance(repair, PostHocMethod)
    if repair.needs_unaligned and unaligned is None:
        raise UserError(f"{method} needs the model from before it was aligned. Give --unaligned.")
    _require_out(out, model)
    start, tokenizer, tuned = _loaded(model, aligned)
    before = load_model(unaligned)[0] if unaligned else None
    mended = repair.apply(tuned, start, before)
    with written_whole(out) as unfinished:
        _save(mended, tokenizer, unfinished)
        write_checksums(unfinished)
        moved = distance(mended, start)
        edit = published(method)
        card = repaired_card(edit, value, str(model), aligned, unaligned, moved, unfinished)
        write_atomically(unfinished / CARD_FILE, card)
    return moved


@dataclass(frozen=True)
class Interpolated:
    """The model (1 − a)·θ + a·θ_s that was chosen by its answers."""

    share: float
    """a, the aligned model's share."""
    distance: float
    """From the aligned model."""
    rates: JudgedRates


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
    rates = RatesOnHalves(prompts_to_ask(answers, 0, Path()), limits, 0)
    _require_out(out, model)
    start, tokenizer, tuned = _loaded(model, aligned)
    start, tuned = to_device(start), to_device(tuned)
    context = limits_of(start).context
    prompt = max_prompt if context is None else min(max_prompt, max(1, context - answers.tokens))

    def at(place: float) -> Any:
        return Interpolation(1 - place).apply(deepcopy(tuned), start)

    def named(place: float) -> tuple[str, Any]:
        return f"wise-ft-{1 - place:.6g}", at(place)

    kept = out.with_name(f"{out.name}-answers")
    with only_writer(kept):
        answering = Answering(rates.asked, answers, prompt, start, tokenizer, kept)
        made_of = digest_of(f"{_digest(model)} {_digest(Path(aligned))}")
        answering = answering.kept_in(answers_folder(kept / made_of, answering))
        search = RateSearch(answering, rates, named, watcher)
        place, _, told = search.found(lambda place: f"a share of {number(1 - place)} of θ_s")
    mended = at(place)
    found = Interpolated(1 - place, distance(mended, start), told)
    with written_whole(out) as unfinished:
        _save(mended, tokenizer, unfinished)
        write_atomically(unfinished / RATES_FILE, json.dumps(asdict(found), indent=1) + "\n")
        write_checksums(unfinished)
        card = repaired_card(
            published("wise-ft"),
            found.share,
            str(model),
            aligned,
            None,
            found.distance,
            unfinished,
            told.changes,
            told.judges,
        )
        write_atomically(unfinished / CARD_FILE, card)
    return found


def _require_out(out: Path, model: Path) -> None:
    if out.resolve() == model.resolve():
        raise UserError(f"{out} is the model itself. Give another --out.")
    require_nothing_there(out)


def _loaded(
    model: Path, aligned: str
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, PreTrainedModel | PeftModel]:
    """θ_s with its tokenizer, and the fine-tuned model."""
    start, tokenizer = load_model(aligned)
    if (model / "adapter_config.json").exists():
        base, _ = load_model(aligned)
        return start, tokenizer, with_adapter(base, aligned, str(model))
    return start, tokenizer, load_model(str(model))[0]


def _save(model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    name_base_portably(folder)


def _digest(model: Path) -> str:
    """Of a folder's files, so that a model trained anew is not taken for the one before."""
    if not model.is_dir():
        return str(model)
    files = sorted(path for path in model.iterdir() if path.is_file() and path.name != CARD_FILE)
    return digest_of(" ".join(f"{path.name} {sha256_of(path)}" for path in files))
