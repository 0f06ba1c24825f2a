"""Answers go to a judge, and what it says is kept beside them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path

from trimtab.evaluate.judges.base import Judge
from trimtab.evaluate.outcome import Outcome, Verdict, outcome
from trimtab.measure.refusals import is_refusal
from trimtab.results.generations import Generation
from trimtab.results.judgements import Judgement, read_judgements, write_judgements

_AT_ONCE = 16


def kept_judgements(
    judge: Judge,
    generations: Sequence[Generation],
    coherent: Sequence[bool],
    path: Path,
    judged: Callable[[int], None] = lambda count: None,
) -> list[Judgement]:
    """A judgement of every answer, from `path` where this judge was asked of it before.

    The file holds every judge's; it is replaced after every 16 answers, so that a run that was
    killed goes on. A judgement is known by judge, model, revision, settings and a hash of prompt
    and answer: one of another answer is asked for anew, and its line stays. Models that are near
    each other answer much alike: what was said of the same answer in a file beside `path` is
    taken from there.

    Args:
        coherent: whether each answer is; it is known here, not kept.
        judged: hears how many answers have a judgement.

    Raises:
        UserError: the judge cannot be asked, or the file is none.
    """
    kept = read_judgements(path)
    who = (judge.name, judge.model, judge.revision, judge.settings)
    known = {one.answer_id: one for one in kept if _who(one) == who}
    others = [one for one in kept if _who(one) != who]
    unknown = {one.answer_id: one for one in generations if one.answer_id not in known}
    known |= _said_beside(path, who, unknown) if unknown else {}
    missing = [one for answer, one in unknown.items() if answer not in known]
    for start in range(0, len(missing), _AT_ONCE):
        batch = missing[start : start + _AT_ONCE]
        verdicts = judge.verdicts([(one.asked.text, one.answer) for one in batch])
        for generation, verdict in zip(batch, verdicts, strict=True):
            known[generation.answer_id] = _judgement(judge, generation, verdict)
        write_judgements(path, [*others, *known.values()])
        judged(len(generations) - len(missing) + start + len(batch))
    told = [
        _counted(judge, known[generation.answer_id], generation, is_coherent)
        for generation, is_coherent in zip(generations, coherent, strict=True)
    ]
    in_order = {one.answer_id: one for one in told}
    left = [one for answer, one in known.items() if answer not in in_order]
    if (now := [*others, *in_order.values(), *left]) != kept:
        write_judgements(path, now)
    judged(len(generations))
    return told


def _said_beside(path: Path, who: tuple[str, ...], wanted: Collection[str]) -> dict[str, Judgement]:
    """What a judge said of the wanted answers of other models, by the answers' ids."""
    others = [one for one in sorted(path.parent.glob(f"*{path.suffix}")) if one != path]
    return {
        one.answer_id: one
        for other in others
        for one in read_judgements(other)
        if one.answer_id in wanted and _who(one) == who
    }


def _judgement(judge: Judge, generation: Generation, verdict: Verdict) -> Judgement:
    told = _outcome(judge, generation, verdict, coherent=True)
    return Judgement(
        judge.name,
        judge.model,
        judge.revision,
        judge.settings,
        generation.answer_id,
        told.value,
        verdict.harmful,
        verdict.refused,
        verdict.probability,
        verdict.unparsed,
        verdict.text,
    )


def _who(judgement: Judgement) -> tuple[str, ...]:
    return (judgement.judge, judgement.model, judgement.revision, judgement.settings)


def _outcome(judge: Judge, generation: Generation, verdict: Verdict, coherent: bool) -> Outcome:
    kind = generation.asked.kind
    if kind == "benign" and not judge.knows_benign and verdict.harmful:
        verdict = replace(verdict, harmful=False)
    return outcome(verdict, kind, is_refusal(generation.answer), coherent)


def _counted(
    judge: Judge, judgement: Judgement, generation: Generation, coherent: bool
) -> Judgement:
    """The judgement with the outcome that the answer's coherence makes of it."""
    verdict = Verdict(
        judgement.harmful,
        judgement.refused,
        judgement.probability,
        judgement.unparsed,
        judgement.text,
    )
    return replace(judgement, outcome=_outcome(judge, generation, verdict, coherent).value)
