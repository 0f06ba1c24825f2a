"""Judges that come later: they read the answers that a run has kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

from trimtab.config.methods import ALIGNED
from trimtab.errors import UserError
from trimtab.evaluate.agreement import Agreement, agreement
from trimtab.evaluate.evaluation import (
    EvaluatedModel,
    require_distinct_judges,
    write_disagreements,
)
from trimtab.evaluate.judges.base import Judge
from trimtab.evaluate.judging import kept_judgements, who_judged
from trimtab.evaluate.outcome import Outcome
from trimtab.evaluate.rates import counted_prompts
from trimtab.results.files import only_writer
from trimtab.results.generations import GENERATIONS_FOLDER, Generation, read_generations
from trimtab.results.judgements import JUDGEMENTS_FOLDER, Judgement, read_judgements
from trimtab.results.per_row_losses import RowLosses
from trimtab.watching import Watcher


def judged_later(
    folder: Path, judges: Sequence[Judge], watcher: Watcher
) -> tuple[EvaluatedModel, ...]:
    """Have `judges` judge every answer in `folder`/generations, where each was judged before.

    What they say is kept in `folder`/judgements beside what was said before, and where judges
    differ in `folder`/disagreements. The rates that results tell stay those of the run's first
    judge; which prompts another counts is kept with the rows' losses, so that models are compared
    by it too. Which answers are incoherent was told by the start model, and is taken from what is
    kept.

    Returns:
        The models, the start first, with what every judge said that has judged all of them: not
        one that was interrupted and is not asked now.

    Raises:
        UserError: no answers there, or some that no judge has read yet; a judge cannot be asked.
    """
    require_distinct_judges(judges)
    paths = sorted((folder / GENERATIONS_FOLDER).glob("*.jsonl"))
    if not paths:
        raise UserError(
            f"{folder} has no answers. Give the folder of a run that had --harmful or --benign."
        )
    paths.sort(key=lambda path: path.stem != ALIGNED.name)
    with only_writer(folder):
        answers = {path.stem: read_generations(path) for path in paths}
        before = {name: read_judgements(_judged(folder, name)) for name in answers}
        incoherent = _incoherent(folder, answers, before)
        for judge in judges:
            for name, generations in answers.items():
                watcher.doing(f"{judge.name} judges {name}", len(generations))
                coherent = [generation.answer_id not in incoherent for generation in generations]
                judgements = kept_judgements(
                    judge, generations, coherent, _judged(folder, name), watcher.stepped
                )
                rows = RowLosses(folder)
                if rows.folder.exists():
                    rows.add(name, counted_prompts(generations, judgements, judge.name))
        models = _evaluated(folder, answers)
        for model in models:
            write_disagreements(model, folder)
    return models


def agreements_over(models: Sequence[EvaluatedModel]) -> list[Agreement]:
    """Of each pair of judges over all different answers of models, by prompt.

    Models that answer alike are not asked twice: an answer counts once.
    """
    answers = {
        generation.answer_id: (
            generation.prompt.text,
            {judge: judgements[place] for judge, judgements in model.judgements.items()},
        )
        for model in models
        for place, generation in enumerate(model.generations)
    }
    prompts, answer_judgements = zip(*answers.values(), strict=True)
    return [
        agreement(
            [judgements[first] for judgements in answer_judgements],
            [judgements[second] for judgements in answer_judgements],
            prompts,
        )
        for first, second in combinations(models[0].judgements, 2)
    ]


def _judged(folder: Path, name: str) -> Path:
    return folder / JUDGEMENTS_FOLDER / f"{name}.jsonl"


def _incoherent(
    folder: Path,
    answers: Mapping[str, Sequence[Generation]],
    before: Mapping[str, Sequence[Judgement]],
) -> set[str]:
    """The ids of the answers that were found incoherent. Raises UserError: some were not judged."""
    for name, generations in answers.items():
        if not {generation.answer_id for generation in generations} <= {
            judgement.answer_id for judgement in before[name]
        }:
            raise UserError(
                f"{folder}: answers of {name} have not been judged. Let the run end first; the "
                "same command goes on with it."
            )
    judgements = [
        judgement for model_judgements in before.values() for judgement in model_judgements
    ]
    return {
        judgement.answer_id for judgement in judgements if judgement.outcome == Outcome.INCOHERENT
    }


def _evaluated(
    folder: Path, answers: Mapping[str, Sequence[Generation]]
) -> tuple[EvaluatedModel, ...]:
    """With every judge that has judged all; of two models of one judge's name, the later one."""
    judgements = {
        name: {
            (who_judged(judgement), judgement.answer_id): judgement
            for judgement in read_judgements(_judged(folder, name))
        }
        for name in answers
    }
    judges = {
        who[0]: who
        for who in dict.fromkeys(
            who for model_judgements in judgements.values() for who, _ in model_judgements
        )
        if all(
            (who, generation.answer_id) in judgements[name]
            for name, generations in answers.items()
            for generation in generations
        )
    }
    return tuple(
        EvaluatedModel(
            name,
            name,
            generations,
            {
                judge: [judgements[name][who, generation.answer_id] for generation in generations]
                for judge, who in judges.items()
            },
        )
        for name, generations in answers.items()
    )
