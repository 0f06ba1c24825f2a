"""What every model of an experiment answers to its prompts, and what the judges say of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import get_args
from warnings import warn

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimtab.config.experiment import Answers, Experiment
from trimtab.config.methods import ALIGNED
from trimtab.data.splits import Roles, read_roles
from trimtab.errors import UserError
from trimtab.evaluate.answers import kept_answers
from trimtab.evaluate.coherence import (
    AnswerMeasures,
    CoherenceLimits,
    answer_measures,
    limits_of_start,
)
from trimtab.evaluate.engines import AnswerEngine, LoadedEngine
from trimtab.evaluate.judges.base import Judge
from trimtab.evaluate.judging import kept_judgements
from trimtab.evaluate.named_judges import judge_named
from trimtab.evaluate.prompt_sets import distinct_prompts, prompts_of
from trimtab.evaluate.rates import RATES, counted_prompts, rates
from trimtab.models import limits_of
from trimtab.results.generations import (
    GENERATIONS_FOLDER,
    AskedPrompt,
    Decoding,
    Generation,
    Kind,
)
from trimtab.results.judgements import JUDGEMENTS_FOLDER
from trimtab.stats import Array, Estimate

EngineOf = Callable[[str, PreTrainedModel, PreTrainedTokenizerBase], AnswerEngine]


@dataclass(frozen=True)
class Judged:
    """A model's rates by the name of their field, as the first judge has them.

    `counts` holds which prompts every judge counts for each rate, as `RowLosses` keeps them, so
    that the rates of two models are compared prompt by prompt.
    """

    rates: Mapping[str, Estimate] = field(default_factory=dict)
    counts: Mapping[str, Array] = field(default_factory=dict)


class Answering:
    """Asks each model the same prompts once, keeps what it answers, and has it judged.

    Answers are kept in `folder`/generations and judgements in `folder`/judgements, a file a model,
    from which an interrupted run goes on.

    Args:
        prompts: as of `prompts_to_ask`.
        answers: who judges, and where an answer ends.
        max_prompt: where prompts are cut, in tokens.
        engine_of: who answers for a model in memory, by its name and with the tokenizer.

    Raises:
        UserError: there is no such judge.
    """

    def __init__(
        self,
        prompts: Sequence[AskedPrompt],
        answers: Answers,
        max_prompt: int,
        aligned: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        folder: Path,
        engine_of: EngineOf = LoadedEngine,
    ) -> None:
        self.aligned = aligned
        self.tokenizer = tokenizer
        self.folder = folder
        self.engine_of = engine_of
        self.prompts = prompts
        self.judges = judges_of(answers)
        context = limits_of(aligned).context
        room = answers.tokens if context is None else max(1, context - max_prompt)
        self.decoding = Decoding(
            max_tokens=min(answers.tokens, room), max_prompt=max_prompt, batch_size=32
        )

    def in_folder(self, folder: Path) -> Answering:
        """The same, with its answers kept in another folder."""
        answering = copy(self)
        answering.folder = folder
        return answering

    def judged(
        self,
        name: str,
        model: PreTrainedModel,
        answered: Callable[[int], None] = lambda count: None,
    ) -> Judged:
        """What `model` answers, whose files are called `name`.

        Args:
            answered: hears how many prompts have an answer.
        """
        generations = self._answers(name, model, answered)
        coherent = self._limits.coherent(self._measures(generations))
        path = self.folder / JUDGEMENTS_FOLDER / f"{name}.jsonl"
        first_judgements, *other_judgements = (
            kept_judgements(judge, generations, coherent, path) for judge in self.judges
        )
        estimates = rates(generations, first_judgements)
        counts = counted_prompts(generations, first_judgements)
        for judgements in other_judgements:
            counts |= counted_prompts(generations, judgements, judgements[0].judge)
        return Judged(
            {rate.field: estimates[rate.name] for rate in RATES if rate.name in estimates}, counts
        )

    def _answers(
        self,
        name: str,
        model: PreTrainedModel,
        answered: Callable[[int], None] = lambda count: None,
    ) -> list[Generation]:
        path = self.folder / GENERATIONS_FOLDER / f"{name}.jsonl"
        engine = self.engine_of(name, model, self.tokenizer)
        return kept_answers(engine, self.prompts, self.decoding, path, answered)

    @cached_property
    def _limits(self) -> CoherenceLimits:
        own = self._answers(ALIGNED.name, self.aligned)
        return limits_of_start(self.aligned, self.tokenizer, own, self.decoding)

    def _measures(self, generations: list[Generation]) -> AnswerMeasures:
        texts = [generation.answer for generation in generations]
        return answer_measures(self.aligned, self.tokenizer, self.prompts, texts, self.decoding)


def answering_of(
    experiment: Experiment,
    roles: Roles,
    aligned: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    engine_of: EngineOf = LoadedEngine,
) -> Answering | None:
    """Asks the models of an experiment; None where it asks nothing. Raises as of its prompts."""
    if experiment.answers is None:
        return None
    prompts, answers = prompts_of_experiment(experiment, roles), experiment.answers
    prompt = experiment.lengths.prompt
    return Answering(prompts, answers, prompt, aligned, tokenizer, folder, engine_of)


def read_rows_and_prompts(experiment: Experiment) -> tuple[Roles, list[AskedPrompt]]:
    """The rows of every role, and the prompts to ask, which no row is trained on.

    What was noticed of either is among the warnings of the roles. Raises UserError as of each.
    """
    roles = read_roles(experiment)
    warnings: list[str] = []
    prompts = prompts_of_experiment(experiment, roles, warnings.append)
    return replace(roles, warnings=(*roles.warnings, *warnings)), prompts


def prompts_of_experiment(
    experiment: Experiment, roles: Roles, warning: Callable[[str], None] = lambda _: None
) -> list[AskedPrompt]:
    """What its models are to answer; none where it asks nothing.

    Args:
        roles: of whose rows no prompt is asked that they are trained on.
        warning: hears what is left out.

    Raises:
        UserError: prompts cannot be read, are all trained on, or there is no such judge.
    """
    if experiment.answers is None:
        return []
    judges_of(experiment.answers)
    root = Path(experiment.data_root)
    return prompts_to_ask(
        experiment.answers, experiment.split_seed, root, roles.trained_on, warning
    )


def prompts_to_ask(
    answers: Answers,
    seed: int,
    data_root: Path,
    trained_on: Mapping[str, str] = MappingProxyType({}),
    warning: Callable[[str], None] = warn,
) -> list[AskedPrompt]:
    """The prompts of every source, harmful ones first.

    Args:
        seed: which are chosen, where a source's `rows` limits how many.
        data_root: where relative paths start.
        trained_on: as of `Roles.trained_on`; such prompts are left out.
        warning: hears how many are.

    Raises:
        UserError: a source cannot be read, or a prompt is in sources of both kinds.
    """
    kinds: tuple[Kind, ...] = get_args(Kind)
    return distinct_prompts(
        prompt
        for kind in kinds
        for source in getattr(answers, kind)
        for prompt in prompts_of(source, kind, seed, data_root, trained_on, warning)
    )


def judges_of(answers: Answers) -> list[Judge]:
    """The judges by their names. Raises UserError: there is no such judge, or one comes twice."""
    judges = [judge_named(name) for name in answers.judges]
    if len({judge.name for judge in judges}) < len(judges):
        raise UserError("answers: judges names one judge twice. Name each once.")
    return judges
