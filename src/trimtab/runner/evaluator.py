"""What is measured of a model: losses on held-out rows, distance, overlap, answers, landscape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from datasets import Dataset
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimtab.config.audit_settings import FEWEST_ROWS
from trimtab.config.data_names import ORIGINAL, by_data_name, safety_data, task_data
from trimtab.config.data_source import Lengths
from trimtab.config.experiment import Experiment
from trimtab.config.run_spec import RunSpec
from trimtab.data.encoding import Limits, encode, teaches_an_end
from trimtab.data.rows import Row
from trimtab.data.splits import Roles, Split
from trimtab.measure.distance import distance, norm
from trimtab.measure.geometry import curvature, slope
from trimtab.measure.losses import HeldOutRows, Loss, loss_of_rows
from trimtab.measure.overlap import prompt_overlap
from trimtab.measure.similarity import TooFewPromptsError
from trimtab.measure.token_loss import TokenLoss, all_weights, low_rank_subspace
from trimtab.results.per_row_losses import RowLosses
from trimtab.results.result import Estimate, LocalGeometry, Point
from trimtab.runner.answering import Answering, Judged
from trimtab.stats import Array
from trimtab.train.objectives.base import Objective


@dataclass(frozen=True)
class EncodedSplit:
    """One data set of one role as token ids, and the prompts that its overlap is taken on."""

    train: Dataset
    held_out: HeldOutRows
    train_prompts: tuple[str, ...]


@dataclass(frozen=True)
class EncodedRoles:
    """Every data set of every role as token ids."""

    original: EncodedSplit | None
    safety: dict[str, EncodedSplit]
    task: dict[str, EncodedSplit]

    @classmethod
    def of(
        cls,
        roles: Roles,
        tokenizer: PreTrainedTokenizerBase,
        lengths: Lengths,
        limits: Limits | None = None,
        warning: Callable[[str], None] = lambda _: None,
    ) -> EncodedRoles:
        """Encode `roles`; `warning` hears what is cut. Raises UserError as `encode` does."""

        def rows(place: str, chosen: tuple[Row, ...]) -> Dataset:
            return encode(chosen, tokenizer, lengths, limits, warning, place)

        if not teaches_an_end(tokenizer):
            warning(
                "The chat template puts no control token after an answer: training teaches no end, "
                "and answers go on until they are cut. Give a model whose template has one."
            )

        def encoded(split: Split) -> EncodedSplit:
            held_out = rows(f"{split.label}, held out", split.held_out)
            return EncodedSplit(
                rows(split.label, split.train),
                HeldOutRows.of(held_out, split.held_out, split.repeats),
                tuple(row.prompt[-1].content for row in split.train),
            )

        return cls(
            encoded(roles.original) if roles.original else None,
            {name: encoded(split) for name, split in roles.safety.items()},
            {name: encoded(split) for name, split in roles.task.items()},
        )

    def held_out(self, dataset: str) -> HeldOutRows:
        """Those of `original`, `safety:NAME` or `task:NAME`."""
        return by_data_name(self.original, self.safety, self.task)[dataset].held_out


@dataclass(frozen=True)
class Trained:
    """A model as it left its training, and what that cost."""

    model: Any
    train_tokens: int
    wall_seconds: float
    multiplier: float | None = None
    extra_bytes: int | None = None
    validation_rows_wanted: int | None = None
    objective: Objective | None = None
    """What it was trained by, with what it learned."""


class Evaluator:
    """Measures models against the aligned model θ_s, on the held-out rows of one experiment.

    Args:
        row_nll: −log P_θ(y|x) and the length of y, of a model on the held-out rows of a data set
            by its name.
        answering: asks models what the experiment asks them.
        doing: hears what takes time.
    """

    def __init__(
        self,
        experiment: Experiment,
        rows: EncodedRoles,
        aligned: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        folder: Path,
        row_nll: Callable[[nn.Module, str], tuple[Array, Array]],
        answering: Answering | None,
        doing: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.row_nll = row_nll
        self.experiment = experiment
        self.rows = rows
        self.aligned = aligned
        self.tokenizer = tokenizer
        self.row_losses = RowLosses(folder)
        self.doing = doing
        self.answering = answering
        self._overlaps: dict[tuple[str, str], Estimate | None] = {}

    def points(
        self,
        name: str,
        trained: Trained,
        specs: tuple[RunSpec, ...],
    ) -> list[Point]:
        """The points of one model, which share the losses and the `name` of what was trained."""
        if not specs:
            return []
        model = trained.model
        self.doing(f"measuring {name}")
        far = 0.0 if model is self.aligned else distance(model, self.aligned)
        datasets = [
            *([ORIGINAL] if self.rows.original else []),
            *(safety_data(spec.proxy) for spec in specs),
            *(task_data(spec.task) for spec in specs),
        ]
        measured = {dataset: self._loss(model, dataset) for dataset in dict.fromkeys(datasets)}
        if self.answering:
            self.doing(f"answering: {name}")
        judged = self.answering.judged(name, model) if self.answering else Judged()
        self.row_losses.add(
            name,
            {dataset: loss.by_row for dataset, loss in measured.items() if loss.by_row is not None}
            | dict(judged.counts),
        )
        original = measured.get(ORIGINAL)

        def point(spec: RunSpec) -> Point:
            safety, task = measured[safety_data(spec.proxy)], measured[task_data(spec.task)]
            return Point(
                spec=spec,
                alignment_loss=original.per_token if original else None,
                alignment_loss_per_response=original.per_response if original else None,
                proxy_loss=safety.per_token,
                proxy_loss_per_response=safety.per_response,
                capability_loss=task.per_token,
                capability_loss_per_response=task.per_response,
                context_overlap=self._overlap(spec.task, str(spec.proxy)),
                distance=far,
                relative_distance=far / self._aligned_norm,
                train_tokens=trained.train_tokens,
                wall_seconds=trained.wall_seconds,
                model=name,
                multiplier=trained.multiplier,
                validation_rows_wanted=trained.validation_rows_wanted,
                extra_bytes=trained.extra_bytes,
                **judged.rates,
            )

        return [point(spec) for spec in specs]

    def _loss(self, model: nn.Module, dataset: str) -> Loss:
        held_out = self.rows.held_out(dataset)
        return loss_of_rows(*self.row_nll(model, dataset), held_out, self.experiment.measure)

    @cached_property
    def _aligned_norm(self) -> float:
        return norm(self.aligned)

    def _overlap(self, task: str, proxy: str) -> Estimate | None:
        """None where the rows, or their different prompts, are too few to tell it."""
        overlap = self.experiment.task[task].context_overlap
        if overlap is not None:
            return Estimate(overlap, overlap, overlap, "share of task prompts", "exact")
        prompts = self.rows.task[task].train_prompts, self.rows.safety[proxy].train_prompts
        if min(map(len, prompts)) < FEWEST_ROWS:
            return None
        if (task, proxy) not in self._overlaps:
            task_source, proxy_source = self.experiment.task[task], self.experiment.safety[proxy]
            repeats = task_source.repeats and proxy_source.repeats
            try:
                self._overlaps[task, proxy] = prompt_overlap(*prompts, repeats)
            except TooFewPromptsError:
                self._overlaps[task, proxy] = None
        return self._overlaps[task, proxy]

    @cached_property
    def in_landscape(self) -> dict[str, Dataset]:
        """The rows of every loss that Theorems 3 and 4 speak of, by the data set's name."""
        splits = {task_data(name): self.rows.task[name] for name in self.experiment.tasks_in_case_2}
        if self.rows.original:
            splits[ORIGINAL] = self.rows.original
        else:
            splits |= by_data_name(None, self.rows.safety, {})
        most = self.experiment.measure.landscape_rows
        return {
            name: split.train.shuffle(seed=0).select(range(min(most, len(split.train))))
            for name, split in splits.items()
        }

    def landscape(self, measured: Callable[[int], None]) -> dict[str, LocalGeometry]:
        """Slope and curvature at θ_s of each loss; `measured` hears how many are done."""
        rank, tokens = self.experiment.train.lora_rank, self.experiment.measure.tokens_per_batch
        space = all_weights if rank is None else partial(low_rank_subspace, rank=rank)
        geometries = {}
        with space(self.aligned) as (model, weights):
            for name, rows in self.in_landscape.items():
                loss = TokenLoss.over(model, weights, rows, tokens)
                geometries[name] = LocalGeometry(slope(loss)[0].norm, curvature(loss))
                measured(len(geometries))
        return geometries
