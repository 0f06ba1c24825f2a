"""Rows to train on and rows held out: a prompt held out in one role is trained on in none."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path

from trimtab.config.data_source import DataSource
from trimtab.config.experiment import Experiment
from trimtab.data.files import MissingFilesError, local_path, on_hub, require_files
from trimtab.data.rows import Row, prompt_key, question_key, row_weights
from trimtab.data.sources import read_rows
from trimtab.errors import UserError
from trimtab.stats import FEW_ROWS

_HALVES_SEED = 2**20
_FEWEST_IN_A_HALF = 4
_FEW_HELD_OUT = 10
"""Below it a word is said when they are read, and not at the end alone."""


@dataclass(frozen=True)
class Split:
    """One data set of one role, divided."""

    label: str
    """The role and, where a role may have several data sets, the name: "original", "task code"."""
    train: tuple[Row, ...]
    """Rows a model may be trained on, in the file's order."""
    held_out: tuple[Row, ...]
    """Rows that losses are measured on, in the file's order."""
    repeats: bool = False
    """Whether rows are draws that may come again, so that several of one prompt are independent."""

    @property
    def draws_held_out(self) -> int:
        """How many independent draws the held-out rows are: as many as prompts, or as rows."""
        return _draws(self.held_out, self.repeats)


@dataclass(frozen=True)
class Roles:
    """Every role's rows, divided and checked against each other."""

    original: Split | None
    """D_s, the model's own alignment data, where it is at hand."""
    safety: dict[str, Split]
    """D_ŝ by the proxy's name."""
    task: dict[str, Split]
    """D_f by the task's name."""
    warnings: tuple[str, ...]
    """What was removed, repeated or shared, each counted in one line."""

    @property
    def trained_on(self) -> dict[str, str]:
        """Whose training rows ask a prompt, by its key, with and without its system message.

        Rows that are draws are left out: of a small world every prompt is drawn.
        """
        splits = [*([self.original] if self.original else []), *self.safety.values()]
        return {
            key: split.label
            for split in (*splits, *self.task.values())
            if not split.repeats
            for row in split.train
            for key in (prompt_key(row.prompt), question_key(row.prompt))
        }


def load_roles(
    original: DataSource | None,
    safety: Mapping[str, DataSource],
    task: Mapping[str, DataSource],
    seed: int = 0,
    data_root: Path | None = None,
) -> Roles:
    """Every role read and divided, no training row with a prompt that any role holds out.

    The share held out is of prompts, drawn by a hash of seed and prompt, so files that answer the
    same prompts divide alike and limits choose alike. What a hash cannot keep apart (a file of
    held-out rows, unequal shares, a held-out question with its answer under another system message)
    is removed from training and counted. A source whose rows are draws (`repeats`) is exempt.
    Relative paths start at `data_root`.

    Raises:
        UserError: a source cannot be read, or has no row left to train on or to hold out.
    """
    sources = {
        **({"original": original} if original else {}),
        **{f"safety {name}": source for name, source in safety.items()},
        **{f"task {name}": source for name, source in task.items()},
    }
    require_files(((f"{label}:", source.path) for label, source in sources.items()), data_root)
    warnings = _shared_sources(sources, data_root)
    divided = {
        label: _divided(label, source, seed, data_root, warnings.append)
        for label, source in sources.items()
    }
    held_out = {
        key for split in divided.values() for row in split.held_out for key in _keys_of_leaks(row)
    }
    finished = {
        label: _finished(divided[label], source, held_out, seed, warnings.append)
        for label, source in sources.items()
    }
    for proxy, task_name in itertools.product(safety, task):
        task_split, safety_split = finished[f"task {task_name}"], finished[f"safety {proxy}"]
        if _rows_named(task[task_name], data_root) != _rows_named(safety[proxy], data_root):
            _tell_of_shared_rows(task_split, safety_split, warnings.append)
    return Roles(
        original=finished.get("original"),
        safety={name: finished[f"safety {name}"] for name in safety},
        task={name: finished[f"task {name}"] for name in task},
        warnings=tuple(warnings),
    )


def read_roles(experiment: Experiment) -> Roles:
    """The rows of every role, divided by the experiment's split seed. Raises UserError."""
    try:
        return load_roles(
            experiment.original,
            experiment.safety,
            experiment.task,
            experiment.split_seed,
            Path(experiment.data_root),
        )
    except MissingFilesError as missing:
        raise UserError(
            f"{missing} If the data lie in another folder, give it: --data-root, or data_root in "
            "the experiment's file."
        ) from None


def split_rows(
    rows: Sequence[Row], share: float, seed: int, repeats: bool = False
) -> tuple[list[Row], list[Row]]:
    """The rows to train on and, about `share` of the prompts, the rows held out.

    A prompt is held out when blake2b(seed, prompt), as a number in [0, 1), is below `share`:
    whatever else a file holds, and in every file alike. With `repeats` the share is of rows.

    >>> from trimtab.data.rows import Message
    >>> rows = [Row((Message("user", str(number)),), "yes") for number in range(1000)]
    >>> train, held_out = split_rows(rows, share=0.2, seed=0)
    >>> len(train) + len(held_out), 150 < len(held_out) < 250
    (1000, True)
    """
    keys = _draw_keys(rows) if repeats else [prompt_key(row.prompt) for row in rows]
    are_held_out = [_uniform("held out", seed, key) < share for key in keys]
    return (
        [row for row, out in zip(rows, are_held_out, strict=True) if not out],
        [row for row, out in zip(rows, are_held_out, strict=True) if out],
    )


def halves_by_prompt(
    rows: Sequence[Row], seed: int, label: str, repeats: bool = False
) -> tuple[list[Row], list[Row]]:
    """Rows to choose by and rows to tell what was chosen, about as many, no prompt in both.

    With `repeats` rows are draws that may come again, and a prompt may be in both.

    Raises:
        UserError: there are too few for both; `label` says of what.
    """
    # Another seed than that which held rows out: below its share every one of them lies.
    first, second = split_rows(rows, 0.5, seed + _HALVES_SEED, repeats)
    if min(_draws(first, repeats), _draws(second, repeats)) < _FEWEST_IN_A_HALF:
        what = "rows" if repeats else "prompts"
        raise UserError(
            f"{label}: {_draws(rows, repeats)} {what} are too few to choose by one half and to "
            "measure on the other. Give, or hold out, more."
        )
    return first, second


def choose_rows(rows: Sequence[Row], limit: int | None, seed: int) -> list[Row]:
    """At most `limit` rows in their order, chosen by a hash of seed and prompt; all when None.

    A smaller limit chooses among the rows of a larger one, and files that answer the same prompts
    keep the same ones.
    """
    if limit is None or len(rows) <= limit:
        return list(rows)
    numbers = [_uniform("chosen", seed, key) for key in _draw_keys(rows)]
    chosen = sorted(range(len(rows)), key=numbers.__getitem__)[:limit]
    return [rows[place] for place in sorted(chosen)]


def _divided(
    label: str,
    source: DataSource,
    seed: int,
    data_root: Path | None,
    warning: Callable[[str], None],
) -> Split:
    rows = read_rows(source, data_root, warning)
    if isinstance(source.held_out, str):
        train, held_out = rows, read_rows(_held_out_source(source, data_root), data_root, warning)
        _require_whole_distribution(f"{label} ({source.held_out})", held_out, source.held_out_rows)
    else:
        train, held_out = split_rows(rows, source.held_out, seed, source.repeats)
    if any(row.weight != 1 for row in rows):
        raise UserError(
            f"{label} ({source.path}): the column 'weight' weighs rows to train on, which all "
            "count alike here. Remove or rename it; the probabilities of a whole distribution "
            "belong in a file of held-out rows."
        )
    if not held_out or not train:
        prompts = len({prompt_key(row.prompt) for row in rows})
        which = "none" if not held_out else "every one"
        of = f"of {len(rows)} rows" + (f" with {prompts} prompts" if prompts < len(rows) else "")
        raise UserError(
            f"{label} ({source.path}): {of} {which} is held out at a share of {source.held_out}; "
            "rows of one prompt stay together. Give rows of more prompts or a file of held-out "
            "rows; if the rows are draws that may come again, set repeats: true."
        )
    return Split(label, tuple(train), tuple(choose_rows(held_out, source.held_out_rows, seed)))


def _require_whole_distribution(place: str, rows: Sequence[Row], limit: int | None) -> None:
    """Weights make a loss exact, so they must be the probabilities of all that can be drawn."""
    total = sum(row.weight for row in rows)
    if all(row.weight == 1 for row in rows):
        return
    if abs(total - 1) > 0.01:
        raise UserError(
            f"{place}: the column 'weight' adds up to {total:g}, and probabilities to 1. Remove or "
            "rename it if it is no probability."
        )
    if limit is not None and limit < len(rows):
        raise UserError(
            f"{place}: these rows are a whole distribution, and held_out_rows would keep {limit} "
            f"of {len(rows)}. Leave held_out_rows out."
        )


def _held_out_source(source: DataSource, data_root: Path | None) -> DataSource:
    held_out = str(source.held_out)
    if on_hub(source.path, data_root) and on_hub(held_out, data_root) and "/" not in held_out:
        return replace(source, split=held_out)
    return replace(source, path=held_out, split=None, name=None)


def _finished(
    split: Split,
    source: DataSource,
    held_out: set[str],
    seed: int,
    warning: Callable[[str], None],
) -> Split:
    place = f"{split.label} ({source.path})"
    train = list(split.train)
    if not source.repeats:
        train = [row for row in train if held_out.isdisjoint(_keys_of_leaks(row))]
        leaked = len(split.train) - len(train)
        if not train:
            raise UserError(
                f"{place}: every prompt to train on is also held out, here or in another role. "
                "Give other held-out rows; if the rows are draws that may come again, set "
                "repeats: true."
            )
        if leaked:
            warning(
                f"{place}: {leaked} of {len(split.train)} training rows have a held-out prompt "
                "and are removed."
            )
    train = choose_rows(train, source.rows, seed)
    repeated = len(train) - len({(prompt_key(row.prompt), row.response) for row in train})
    if repeated and not source.repeats:
        warning(f"{place}: {repeated} of {len(train)} training rows repeat another, and are kept.")
    finished = replace(split, train=tuple(train), repeats=source.repeats)
    _tell_of_few(place, finished, warning)
    return finished


def _tell_of_few(place: str, split: Split, warning: Callable[[str], None]) -> None:
    """Of held-out rows that are draws; one draw alone has no spread to tell an interval by."""
    if row_weights(split.held_out) is not None:
        return
    count = split.draws_held_out
    if count < 2:
        raise UserError(
            f"{place}: one prompt is held out, which tells nothing of how far rows differ. Give "
            f"rows of more prompts, so that {FEW_ROWS} or more are held out."
        )
    if count < _FEW_HELD_OUT:
        warning(
            f"{place}: {count} prompts are held out, too few for intervals to hold what they say. "
            f"Give more rows, so that {FEW_ROWS} or more are held out."
        )


def _tell_of_shared_rows(task: Split, safety: Split, warning: Callable[[str], None]) -> None:
    """Safety rows in the task's file too: what is called plain fine-tuning learns from them.

    Draws that may come again meet by chance, and are no copies.
    """
    if task.repeats or safety.repeats:
        return
    safety_rows = {(prompt_key(row.prompt), row.response) for row in safety.train}
    shared = sum((prompt_key(row.prompt), row.response) in safety_rows for row in task.train)
    if shared:
        warning(
            f"{task.label}: {shared} of {len(task.train)} training rows are rows of {safety.label} "
            "too, so that even plain fine-tuning is trained on safety data. Take them out of one "
            "file, unless that is what you mean."
        )


def _shared_sources(sources: Mapping[str, DataSource], data_root: Path | None) -> list[str]:
    labels: dict[str, list[str]] = {}
    for label, source in sources.items():
        labels.setdefault(_rows_named(source, data_root), []).append(label)
    return [
        f"{' and '.join(shared)} read the same rows of {sources[shared[0]].path}"
        + (": their losses are one." if any(label.startswith("task") for label in shared) else ".")
        for shared in labels.values()
        if len(shared) > 1
    ]


def _rows_named(source: DataSource, data_root: Path | None) -> str:
    """The same for two sources that read the same rows of one file."""
    path = source.path
    if not on_hub(path, data_root):
        path = str(local_path(path, data_root).resolve())
    where = json.dumps(source.where, sort_keys=True, default=str)
    return f"{path} {source.name} {source.split} {where}"


def _keys_of_leaks(row: Row) -> tuple[str, str]:
    """Prompt, and question with answer: a row to train on that has either gives this one away."""
    return prompt_key(row.prompt), f"{question_key(row.prompt)} {row.response.strip()}"


def _draws(rows: Sequence[Row], repeats: bool) -> int:
    """How many independent draws rows are: those of one prompt are one, unless they may repeat."""
    return len(rows) if repeats else len({prompt_key(row.prompt) for row in rows})


def _draw_keys(rows: Sequence[Row]) -> list[str]:
    counts: Counter[str] = Counter()
    keys = []
    for row in rows:
        key = prompt_key(row.prompt)
        keys.append(f"{key} {counts[key]}")
        counts[key] += 1
    return keys


def _uniform(purpose: str, seed: int, key: str) -> float:
    digest = blake2b(f"{purpose} {seed} {key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
