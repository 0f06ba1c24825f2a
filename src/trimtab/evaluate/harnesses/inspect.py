"""Inspect, of the UK AI Security Institute, in this process.

Source: inspect.aisi.org.uk.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from trimtab.config.loading import Loading
from trimtab.errors import UserError
from trimtab.evaluate.harnesses.base import Measured
from trimtab.models import as_one_folder, device_name, model_files
from trimtab.results.checksums import digest_of
from trimtab.results.harness_samples import HarnessRun


@dataclass(frozen=True)
class Inspect:
    """Tasks of Inspect, `file.py@task` or those of a package, run by its own provider `hf/local`.

    Answers are greedy unless a task says otherwise. A log's metadata says which model and weights
    it is of.
    """

    load: ClassVar = Loading()
    """Inspect loads models itself, in what they were saved in."""
    name: ClassVar = "inspect"
    package: ClassVar = "inspect_ai"
    tasks: tuple[str, ...]
    limit: int | None = None
    logs: Path = Path("logs")
    """The folder of Inspect's own logs."""
    batch_size: int = 16

    @contextmanager
    def loaded(self, run: HarnessRun) -> Iterator[Callable[[str], list[Measured]]]:
        """The model in Inspect, which loads it itself."""
        import inspect_ai
        from inspect_ai.model import get_model

        with as_one_folder(run.model) as folder:
            model = get_model(
                "hf/local",
                model_path=folder,
                tokenizer_path=folder,
                device=device_name(),
                do_sample=False,
                memoize=False,
            )

            def measured(task: str) -> list[Measured]:
                logs = inspect_ai.eval(
                    task,
                    model=model,
                    limit=self.limit,
                    metadata={"model": run.model, "sha256": run.sha256},
                    max_connections=self.batch_size,
                    log_dir=str(self.logs),
                    display="none",
                )
                if len(logs) == 1:
                    return _measured(logs[0])
                return [sample for log in logs for sample in _measured(log, f"{log.eval.task} ")]

            yield measured

    def place(self, task: str) -> Path | None:
        """The file of `file.py@task`."""
        return Path(task.partition("@")[0])

    def command(self, model: str) -> str:
        """The harness's own command line."""
        files = model_files(model)
        words = ["inspect", "eval", *self.tasks, "--model", "hf/local"]
        words += ["-M", f"model_path={files.adapter or files.base}"]
        words += ["-M", f"tokenizer_path={files.tokenizer}", "-M", "do_sample=false"]
        words += ["--max-connections", str(self.batch_size)]
        words += ["--limit", str(self.limit)] if self.limit else []
        return shlex.join(words)


def _measured(log: Any, prefix: str = "") -> list[Measured]:
    """The samples of a log, with what each scorer gave over a sample's epochs.

    Where a sample was not scored it has no value, as it has no part in Inspect's own mean.
    """
    if log.status != "success":
        reason = log.error.message if log.error else log.status
        raise UserError(
            f"inspect task {log.eval.task!r} ended early ({reason}). See its log, {log.location}."
        )
    contents = {sample.id: digest_of(f"{sample.input}\n{sample.target}") for sample in log.samples}
    metrics: dict[int | str, dict[str, float]] = {sample: {} for sample in contents}
    for scorer in log.reductions or []:
        for score in scorer.samples:
            parts = score.value if isinstance(score.value, dict) else {"": score.value}
            for part, value in parts.items():
                if isinstance(value, int | float) and not math.isnan(value):
                    name = f"{prefix}{scorer.scorer} {part}".strip()
                    metrics[score.sample_id][name] = float(value)
    return [
        Measured(f"{prefix}{sample}", content, metrics[sample])
        for sample, content in contents.items()
    ]
