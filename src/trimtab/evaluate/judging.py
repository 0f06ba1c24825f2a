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
    file_judgements = read_judgements(path)
    who = (judge.name, judge.model, judge.revision, judge.settings)
    judgements = {
        judgement.answer_id: judgement
        for judgement in file_judgements
        if who_judged(judgement) == who
    }
    other_judgements = [judgement for judgement in file_judgements if who_judged(judgement) != who]
    unknown = {
        generation.answer_id: generation
        for generation in generations
        if generation.answer_id not in judgements
    }
    judgements |= _judgements_beside(path, who, unknown) if unknown else {}
    missing = [generation for answer, generation in unknown.items() if answer not in judgements]
    for start in range(0, len(missing), _AT_ONCE):
        batch = missing[start : start + _AT_ONCE]
        verdicts = judge.verdicts(
            [(generation.prompt.text, generation.answer) for generation in batch]
        )
        for generation, verdict in zip(batch, verdicts, strict=True):
            judgements[generation.answer_id] = _judgement(judge, who, generation, verdict)
        write_judgements(path, [*other_judgements, *judgements.values()])
        judged(len(generations) - len(missing) + start + len(batch))
    counted_judgements = [
        _counted(judge, judgements[generation.answer_id], generation, is_coherent)
        for generation, is_coherent in zip(generations, coherent, strict=True)
    ]
    in_order = {judgement.answer_id: judgement for judgement in counted_judgements}
    unused_judgements = [
        judgement for answer, judgement in judgements.items() if answer not in in_order
    ]
    if (now := [*other_judgements, *in_order.values(), *unused_judgements]) != file_judgements:
        write_judgements(path, now)
    judged(len(generations))
    return counted_judgements


def _judgements_beside(
    path: Path, who: tuple[str, ...], answer_ids: Collection[str]
) -> dict[str, Judgement]:
    """What a judge said of these answers of other models, by the answers' ids."""
    other_paths = [
        other_path
        for other_path in sorted(path.parent.glob(f"*{path.suffix}"))
        if other_path != path
    ]
    return {
        judgement.answer_id: judgement
        for other_path in other_paths
        for judgement in read_judgements(other_path)
        if judgement.answer_id in answer_ids and who_judged(judgement) == who
    }


def _judgement(
    judge: Judge, who: tuple[str, str, str, str], generation: Generation, verdict: Verdict
) -> Judgement:
    answer_outcome = _outcome(judge, generation, verdict, coherent=True)
    return Judgement(
        *who,
        generation.answer_id,
        answer_outcome.value,
        verdict.harmful,
        verdict.refused,
        verdict.probability,
        verdict.unparsed,
        verdict.text,
    )


def who_judged(judgement: Judgement) -> tuple[str, str, str, str]:
    """The judge's name first, and what else its verdicts depend on."""
    return (judgement.judge, judgement.model, judgement.revision, judgement.settings)


def _outcome(judge: Judge, generation: Generation, verdict: Verdict, coherent: bool) -> Outcome:
    kind = generation.prompt.kind
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
