"""A saved model or adapter is mended and saved again."""

from __future__ import annotations

from pathlib import Path

from trimtab.config.methods import published
from trimtab.errors import UserError
from trimtab.measure.distance import distance
from trimtab.models import load_model, name_base_portably, with_adapter
from trimtab.report.model_card import repaired_card
from trimtab.results.checksums import CARD_FILE, write_checksums
from trimtab.results.files import require_nothing_there, write_atomically, written_whole
from trimtab.train.baselines.post_hoc import PostHocMethod
from trimtab.train.methods import made_from


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
    if out.resolve() == model.resolve():
        raise UserError(f"{out} is the model itself. Give another --out.")
    require_nothing_there(out)
    start, tokenizer = load_model(aligned)
    if (model / "adapter_config.json").exists():
        base, _ = load_model(aligned)
        tuned = with_adapter(base, aligned, str(model))
    else:
        tuned, _ = load_model(str(model))
    before = load_model(unaligned)[0] if unaligned else None
    mended = repair.apply(tuned, start, before)
    with written_whole(out) as unfinished:
        mended.save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
        name_base_portably(unfinished)
        write_checksums(unfinished)
        moved = distance(mended, start)
        edit = published(method)
        card = repaired_card(edit, value, str(model), aligned, unaligned, moved, unfinished)
        write_atomically(unfinished / CARD_FILE, card)
    return moved
