"""EleutherAI's Language Model Evaluation Harness, in this process.

Source: github.com/EleutherAI/lm-evaluation-harness; Gao et al., "The Language Model Evaluation
Harness", 2024, doi 10.5281/zenodo.12608602.
"""

from __future__ import annotations

import logging
import math
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any, ClassVar

from trimtab.config.loading import Loading
from trimtab.evaluate.harnesses.base import Measured
from trimtab.models import load_model, model_files, to_device
from trimtab.results.checksums import digest_of
from trimtab.results.harness_samples import HarnessRun


@dataclass(frozen=True)
class LmEval:
    """Tasks, groups and tags of lm-eval, or YAML files, run on the model that trimtab loads.

    Prompts are the tasks' own, without a chat template, which is lm-eval's default too.
    """

    name: ClassVar = "lm-eval"
    package: ClassVar = "lm_eval"
    tasks: tuple[str, ...]
    limit: int | None = None
    include_path: Path | None = None
    """A folder with tasks of one's own."""
    batch_size: int = 16
    load: Loading = field(default_factory=Loading)

    @contextmanager
    def loaded(self, run: HarnessRun) -> Iterator[Callable[[str], list[Measured]]]:
        """The model in an HFLM."""
        import lm_eval
        from lm_eval.models.huggingface import HFLM

        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        model, tokenizer = load_model(run.model, self.load)
        wrapped = HFLM(pretrained=to_device(model), tokenizer=tokenizer, batch_size=self.batch_size)

        def measured(task: str) -> list[Measured]:
            results = lm_eval.simple_evaluate(
                wrapped,
                tasks=[task],
                limit=self.limit,
                task_manager=self._manager(task),
                bootstrap_iters=0,
            )
            return _measured(results)

        yield measured

    def place(self, task: str) -> Path | None:
        """A YAML file, or the folder with tasks of one's own."""
        return Path(task) if Path(task).exists() else self.include_path

    def command(self, model: str) -> str | None:
        """The harness's own command line, which has no words for how weights are quantised."""
        if self.load.is_quantised:
            return None
        files = model_files(model)
        model_arguments = {
            "pretrained": files.base,
            "peft": files.adapter,
            "tokenizer": files.tokenizer,
            "dtype": self.load.dtype,
            "attn_implementation": self.load.attention,
            "revision": self.load.revision,
        }
        arguments = ",".join(f"{key}={value}" for key, value in model_arguments.items() if value)
        words = ["lm_eval", "--model", "hf", "--model_args", arguments]
        words += ["--tasks", ",".join(self.tasks), "--batch_size", str(self.batch_size)]
        words += ["--limit", str(self.limit)] if self.limit else []
        words += ["--include_path", str(self.include_path)] if self.include_path else []
        return shlex.join(words)

    def _manager(self, task: str) -> Any:
        from lm_eval.tasks import TaskManager

        path = str(self.include_path) if self.include_path else None
        # Reading the thousands of tasks that lm-eval brings takes seconds.
        own = TaskManager(include_path=path, include_defaults=False)
        is_own = Path(task).suffix in (".yaml", ".yml") or task in own.all_subtasks
        return own if is_own else TaskManager(include_path=path)


def _asked(record: Mapping[str, Any]) -> str:
    """A hash of the row, of the prompt it became with its examples, and of what is wanted."""
    hashes = [record.get(part) for part in ("doc_hash", "prompt_hash", "target_hash")]
    return digest_of("".join(map(str, hashes)))


def _measured(results: Mapping[str, Any]) -> list[Measured]:
    """The samples of all tasks that were run, each with what its filters gave.

    A metric is kept where the mean over samples is the number that the harness reports.
    """
    measured = []
    for task, logged in results["samples"].items():
        values: dict[int, dict[str, float]] = {}
        contents = {}
        for record in logged:
            contents[record["doc_id"]] = _asked(record)
            of_sample = values.setdefault(record["doc_id"], {})
            for metric in record["metrics"]:
                named = f"{metric},{record['filter']}"
                if isinstance(record[metric], Real):
                    of_sample[named] = float(record[metric])
        reported = results["results"][task]
        means = [
            name
            for name in next(iter(values.values()), {})
            if math.isclose(
                math.fsum(of_sample.get(name, math.nan) for of_sample in values.values()),
                reported.get(name, math.nan) * len(values),
                rel_tol=1e-9,
            )
        ]
        prefix = f"{task}/" if len(results["samples"]) > 1 else ""
        measured += [
            Measured(
                f"{prefix}{place}",
                contents[place],
                {name.removesuffix(",none"): values[place][name] for name in means},
            )
            for place in sorted(values)
        ]
    return measured
