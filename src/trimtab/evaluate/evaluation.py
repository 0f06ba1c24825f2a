"""The whole path: models answer, judges judge, harnesses run their tasks, all of it kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

from trimtab.config.data_names import free_name
from trimtab.config.loading import Loading
from trimtab.errors import UserError
from trimtab.evaluate.agreement import Agreement, agreement, disagreements
from trimtab.evaluate.answers import kept_answers
from trimtab.evaluate.coherence import CoherenceLimits, answer_measures, limits_of_start
from trimtab.evaluate.engines import AnswerEngine, TransformersEngine
from trimtab.evaluate.harnesses.base import Harness, installed_version, kept_samples
from trimtab.evaluate.harnesses.metrics import metric_changes, metrics
from trimtab.evaluate.judges.base import Judge
from trimtab.evaluate.judging import kept_judgements
from trimtab.evaluate.rates import rate_changes, rates
from trimtab.results.files import only_writer, write_json_lines
from trimtab.results.generations import (
    GENERATIONS_FOLDER,
    AskedPrompt,
    Decoding,
    Generation,
)
from trimtab.results.harness_samples import HarnessSample
from trimtab.results.judgements import JUDGEMENTS_FOLDER, Judgement
from trimtab.stats import Estimate
from trimtab.watching import Watcher

DISAGREEMENTS_FOLDER = "disagreements"


@dataclass(frozen=True)
class EvaluatedModel:
    """A model's answers, what each judge said of them, in the prompts' order, and its samples."""

    name: str
    model: str
    generations: Sequence[Generation] = ()
    judgements: Mapping[str, Sequence[Judgement]] = field(default_factory=dict)
    samples: Sequence[HarnessSample] = ()

    def rates(self, judge: str) -> dict[str, Estimate]:
        """Each rate by its name."""
        return rates(self.generations, self.judgements[judge])

    def changes(self, judge: str, start: EvaluatedModel) -> dict[str, Estimate]:
        """Each rate's change from the start model, paired by prompt."""
        return rate_changes(self.generations, self.judgements[judge], start.judgements[judge])

    def metrics(self) -> dict[str, Estimate]:
        """Each metric of the harnesses by its name."""
        return metrics(self.samples)

    def metric_changes(self, start: EvaluatedModel) -> dict[str, Estimate]:
        """Each metric's change from the start model, paired by sample. Raises UserError."""
        return metric_changes(self.samples, start.samples)

    def agreements(self) -> list[Agreement]:
        """Each pair of judges."""
        return [agreement(*pair) for pair in combinations(self.judgements.values(), 2)]


@dataclass(frozen=True)
class Evaluation:
    """Models on the same prompts and tasks, the first of which is the start model.

    `limits` are that model's; None where nothing was answered.
    """

    limits: CoherenceLimits | None
    models: tuple[EvaluatedModel, ...]


def evaluate(
    models: Sequence[str],
    prompts: Sequence[AskedPrompt],
    judges: Sequence[Judge],
    out: Path,
    watcher: Watcher,
    decoding: Decoding | None = None,
    engine: Callable[[str], AnswerEngine] = TransformersEngine,
    surprised: str | None = None,
    harnesses: Sequence[Harness] = (),
    load: Loading = Loading(),  # noqa: B008  # frozen
) -> Evaluation:
    """Have models answer prompts, judges judge the answers, and harnesses run their tasks.

    Answers are kept in `out`/generations, judgements in `out`/judgements, what judges differ on in
    `out`/disagreements and harnesses' samples in `out`/harnesses, a file a model. Called again it
    goes on; a new judge is asked of the answers that are kept, and a new task is run.

    Args:
        models: folders, adapters or Hub ids; the first is the start model, whose answers set what
            is coherent, and which others are compared with.
        decoding: greedy, up to 256 tokens, by default.
        engine: who answers for a model.
        surprised: the model under which answers' NLL tells what is coherent; the start model when
            None. It is loaded here, whoever answers.
        harnesses: each with its tasks; prompts may be none where there is one.
        load: how the model that tells what is coherent is held in memory.

    Raises:
        UserError: no prompts or judges, models, judges or tasks that cannot be had, or `out` holds
            what another evaluation made.
    """
    if not (prompts and judges) and (prompts or not harnesses):
        raise UserError(
            "there is nothing to evaluate. Give --harmful or --benign, with judges, or tasks with "
            "--lm-eval or --inspect."
        )
    require_distinct_judges(judges)
    for harness in harnesses:
        installed_version(harness)  # one that lacks is told before anything is begun
    decoding, named = decoding or Decoding(), result_names(models)
    with only_writer(out):
        samples = _harnessed(harnesses, named, out, watcher)
        if not prompts:
            unasked = (
                EvaluatedModel(name, model, samples=samples[name]) for name, model in named.items()
            )
            return Evaluation(None, tuple(unasked))
        answers = {}
        for name, model in named.items():
            watcher.doing(f"answering: {name}", len(prompts))
            path = out / GENERATIONS_FOLDER / f"{name}.jsonl"
            answers[name] = kept_answers(engine(model), prompts, decoding, path, watcher.stepped)
        limits, coherent = _coherence(surprised or models[0], load, answers, decoding, watcher)
        judgements: dict[str, dict[str, list[Judgement]]] = {name: {} for name in answers}
        for judge in judges:
            for name, generations in answers.items():
                watcher.doing(f"{judge.name} judges {name}", len(generations))
                path = out / JUDGEMENTS_FOLDER / f"{name}.jsonl"
                judgements[name][judge.name] = kept_judgements(
                    judge, generations, coherent[name], path, watcher.stepped
                )
        evaluated = tuple(
            EvaluatedModel(name, model, answers[name], judgements[name], samples[name])
            for name, model in named.items()
        )
        for evaluated_model in evaluated:
            write_disagreements(evaluated_model, out)
    return Evaluation(limits, evaluated)


def require_distinct_judges(judges: Sequence[Judge]) -> None:
    """Raises UserError: two judges have one name, by which what they say is kept."""
    if len({judge.name for judge in judges}) < len(judges):
        raise UserError("--judge gives one judge twice. Give each once.")


def result_names(models: Sequence[str]) -> dict[str, str]:
    """Models by the name of their files: the last part of each, numbered where it comes again.

    >>> result_names(["hub/base", "run/models/base/", "smollm2"])
    {'base': 'hub/base', 'base-2': 'run/models/base/', 'smollm2': 'smollm2'}
    """
    names: dict[str, str] = {}
    for model in models:
        names[free_name(Path(model).name or "model", names)] = model
    return names


def _harnessed(
    harnesses: Sequence[Harness], named: Mapping[str, str], out: Path, watcher: Watcher
) -> dict[str, list[HarnessSample]]:
    samples: dict[str, list[HarnessSample]] = {name: [] for name in named}
    for harness in harnesses:
        for name, model in named.items():
            watcher.doing(f"{harness.name} runs {name}", len(harness.tasks))
            samples[name] += kept_samples(harness, name, model, out, watcher.stepped)
    return samples


def _coherence(
    surprised: str,
    load: Loading,
    answers: Mapping[str, Sequence[Generation]],
    decoding: Decoding,
    watcher: Watcher,
) -> tuple[CoherenceLimits, dict[str, list[bool]]]:
    watcher.doing("telling what is coherent", len(answers))
    model, tokenizer = TransformersEngine(surprised, load).loaded
    own = next(iter(answers.values()))
    limits = limits_of_start(model, tokenizer, own, decoding)
    coherent = {}
    for done, (name, generations) in enumerate(answers.items(), start=1):
        prompts = [generation.prompt for generation in generations]
        texts = [generation.answer for generation in generations]
        coherent[name] = limits.coherent(
            answer_measures(model, tokenizer, prompts, texts, decoding)
        )
        watcher.stepped(done)
    return limits, coherent


def write_disagreements(model: EvaluatedModel, out: Path) -> None:
    """Keep the answers that two judges differ on in a file of `out`/disagreements."""
    records = []
    for first, second in combinations(model.judgements.values(), 2):
        for generation, first_judgement, second_judgement in disagreements(
            model.generations, first, second
        ):
            outcomes = {
                first_judgement.judge: first_judgement.outcome,
                second_judgement.judge: second_judgement.outcome,
            }
            record = generation.to_json()
            records.append({"prompt": record["prompt"], "answer": record["answer"], **outcomes})
    path = out / DISAGREEMENTS_FOLDER / f"{model.name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json_lines(path, records)
