"""Answers go to a judge, and what it says is kept beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from trimtab.evaluate.judges.base import Judge
from trimtab.evaluate.outcome import Verdict, outcome
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
    killed goes on. A judgement is known by judge, model, revision and a hash of prompt and answer:
    one of another answer is asked for anew, and its line stays.

    Args:
        coherent: whether each answer is; it is known here, not kept.
        judged: hears how many answers have a judgement.

    Raises:
        UserError: the judge cannot be asked, or the file is none.
    """
    kept = read_judgements(path)
    who = (judge.name, judge.model, judge.revision)
    known = {one.answer_id: one for one in kept if (one.judge, one.model, one.revision) == who}
    others = [one for one in kept if (one.judge, one.model, one.revision) != who]
    missing = list(
        {one.answer_id: one for one in generations if one.answer_id not in known}.values()
    )
    for start in range(0, len(missing), _AT_ONCE):
        batch = missing[start : start + _AT_ONCE]
        verdicts = judge.verdicts([(one.asked.text, one.answer) for one in batch])
        for generation, verdict in zip(batch, verdicts, strict=True):
            known[generation.answer_id] = _judgement(judge, generation, verdict)
        write_judgements(path, [*others, *known.values()])
        judged(len(generations) - len(missing) + start + len(batch))
    told = [
        _counted(known[generation.answer_id], generation, is_coherent)
        for generation, is_coherent in zip(generations, coherent, strict=True)
    ]
    known |= {one.answer_id: one for one in told}
    if [*others, *known.values()] != kept:
        write_judgements(path, [*others, *known.values()])
    judged(len(generations))
    return told


def _judgement(judge: Judge, generation: Generation, verdict: Verdict) -> Judgement:
    told = outcome(verdict, generation.asked.kind, is_refusal(generation.answer), coherent=True)
    return Judgement(
        judge.name,
        judge.model,
        judge.revision,
        generation.answer_id,
        told.value,
        verdict.harmful,
        verdict.refused,
        verdict.probability,
        verdict.unparsed,
        verdict.text,
    )


def _counted(judgement: Judgement, generation: Generation, coherent: bool) -> Judgement:
    """The judgement with the outcome that the answer's coherence makes of it."""
    verdict = Verdict(
        judgement.harmful,
        judgement.refused,
        judgement.probability,
        judgement.unparsed,
        judgement.text,
    )
    refuses = is_refusal(generation.answer)
    told = outcome(verdict, generation.asked.kind, refuses, coherent)
    return Judgement(**{**judgement.__dict__, "outcome": told.value})
