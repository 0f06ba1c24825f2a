"""An experiment's YAML file: read with every mistake told by its place, written, and compared."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from trimtab.config.experiment import SMOLLM2, Experiment, Measuring, Training
from trimtab.errors import UserError, reason_of

EXPERIMENT_FILE = "experiment.yaml"

LARGEST_FILE = 4 << 20
"""In bytes; what is longer is something else."""
MOST_VALUES = 100_000
"""In a file, with its anchors written out."""

_RECIPES = Path(__file__).parents[1] / "recipes"

_LONGEST_SHOWN = 200
_NOT_THERE = object()

_EXPERIMENT = TypeAdapter(Experiment)


def recipe_names() -> list[str]:
    """The experiments that trimtab brings with it, by name."""
    return sorted(path.stem for path in _RECIPES.glob("*.yaml"))


def read_experiment(path: Path) -> Experiment:
    """The experiment of a YAML file or recipe, its data root and a local model made absolute.

    A recipe is an experiment that trimtab brings with it, named by its stem where no file of that
    name lies in the way; its data are looked for in the working folder.

    Raises:
        UserError: the file is missing, is not YAML, or a field is unknown, missing or of the
            wrong kind; every such field on one line.
    """
    is_recipe = not path.exists() and str(path) in recipe_names()
    try:
        with (_RECIPES / f"{path}.yaml" if is_recipe else path).open("rb") as file:
            text = file.read(LARGEST_FILE + 1).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text. Give an experiment's YAML file.") from None
    except OSError as error:
        raise UserError(
            f"{path}: {error.strerror}. Give an experiment's YAML file, or one of the recipes "
            f"{', '.join(recipe_names())}."
        ) from None
    experiment = parse_experiment(text, str(path))
    folder = Path() if is_recipe else path.parent
    root = (folder / Path(experiment.data_root).expanduser()).resolve()
    model = folder / Path(experiment.model).expanduser()
    is_folder = experiment.model != SMOLLM2 and model.exists()
    return replace(
        experiment,
        data_root=str(root),
        model=str(model.resolve()) if is_folder else experiment.model,
    )


def recorded_experiment(folder: Path) -> Experiment:
    """The experiment that `folder` is of. Raises UserError: there is none."""
    recorded = folder / EXPERIMENT_FILE
    if not recorded.exists():
        raise UserError(
            f"{recorded}: no such file. Give the folder that 'trimtab sweep' or 'train' writes to."
        )
    return read_experiment(recorded)


def parse_experiment(text: str, place: str) -> Experiment:
    """The experiment of a YAML text; `place` names it in errors. Raises UserError."""
    values = _yaml(text, place)
    if not isinstance(values, Mapping):
        raise UserError(f"{place}: not an experiment. Give model, task, safety and grid.")
    return experiment_from(values, place)


def experiment_from(values: Mapping[str, Any], place: str) -> Experiment:
    """The experiment of plain mappings, lists and values; `place` names them in errors.

    Raises:
        UserError: a field is unknown, missing or of the wrong kind; every such field on one line.
    """
    strange = next((text for text in _texts(values) if "\0" in text), None)
    if strange is not None:
        raise UserError(f"{place}: {strange!r} holds a NUL character. Give it without.")
    try:
        return _EXPERIMENT.validate_python(values)
    except ValidationError as error:
        raise UserError("; ".join(_complaint(place, detail) for detail in error.errors())) from None
    except UserError as error:
        raise UserError(f"{place}: {error}") from None


def _yaml(text: str, place: str) -> Any:
    if len(text) > LARGEST_FILE:
        raise UserError(f"{place}: longer than {LARGEST_FILE >> 20} MiB, so no experiment.")
    loader = None
    try:
        loader = _NoRepeats(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if _size(node) > MOST_VALUES:
            raise UserError(
                f"{place}: its anchors repeat to more than {MOST_VALUES:,} values. Write out "
                "what is meant."
            )
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        problem = error.problem or error.context or "not YAML"
        raise UserError(f"{place} line {line}: {problem}. Mend the line.") from None
    except RecursionError:
        raise UserError(f"{place}: nested too deeply. Give an experiment's YAML file.") from None
    except UserError:
        raise
    # PyYAML's constructors fail in their own ways on values that only look like numbers or dates.
    except Exception as error:
        where = f"{place} line {loader.line + 1}" if loader else place
        raise UserError(f"{where}: not YAML ({reason_of(error)}). Mend it.") from None


def _size(node: yaml.Node, sizes: dict[int, float] | None = None) -> float:
    """The values of a node with every alias written out; infinite where one holds itself."""
    sizes = {} if sizes is None else sizes
    if id(node) not in sizes:
        sizes[id(node)] = float("inf")
        parts = node.value if isinstance(node, yaml.CollectionNode) else []
        nodes = [
            child for part in parts for child in (part if isinstance(part, tuple) else (part,))
        ]
        sizes[id(node)] = 1 + sum(_size(child, sizes) for child in nodes)
    return sizes[id(node)]


def to_yaml(experiment: Experiment) -> str:
    """The experiment with every default written out; `parse_experiment` reads it back."""
    return yaml.safe_dump(plain_values(experiment), sort_keys=False, allow_unicode=True)


def plain_values(experiment: Experiment) -> dict[str, Any]:
    """The experiment as mappings, lists, texts and numbers, every default written out."""
    values: dict[str, Any] = _EXPERIMENT.dump_python(experiment, mode="json", exclude_none=True)
    return values


def differences(before: str, after: Experiment) -> list[str]:
    """The settings by which an experiment as recorded differs from one to be run, as "a 1 → 2".

    Where the data lies and under which licence, whether models are kept, how they are watched in
    training and how often they are kept for going on may change; what is trained may not.
    """

    def compared(experiment: Experiment) -> dict[str, Any]:
        trainings: dict[str, Any] = {
            name: replace(training, checkpoint_every=Training.checkpoint_every)
            for name, training in (("align", experiment.align), ("train", experiment.train))
            if training is not None
        }
        watched = replace(experiment.measure, every=Measuring.every, live_rows=Measuring.live_rows)
        same = replace(experiment, data_root=".", keep_models=None, measure=watched, **trainings)
        settings = by_path(plain_values(same))
        return {path: value for path, value in settings if not path.endswith(".licence")}

    recorded, now = compared(parse_experiment(before, EXPERIMENT_FILE)), compared(after)
    return [
        f"{name} {recorded.get(name, 'not there')} → {now.get(name, 'not there')}"
        for name in dict.fromkeys([*recorded, *now])
        if recorded.get(name, _NOT_THERE) != now.get(name, _NOT_THERE)
    ]


def by_path(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting by its path, a list of plain values whole.

    >>> list(by_path({"train": {"steps": 10}, "grid": [{"penalties": [0.0, 1.0]}]}))
    [('train.steps', 10), ('grid[1].penalties', [0.0, 1.0])]
    """
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from by_path(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, Sequence) and any(isinstance(item, Mapping) for item in value):
        for index, inner in enumerate(value, start=1):
            yield from by_path(inner, f"{path}[{index}]")
    else:
        yield path, value


_MERGED = "tag:yaml.org,2002:merge"
"""Of `<<`, whose mapping gives what this one does not."""


class _NoRepeats(yaml.SafeLoader):
    """A safe loader to which a key given twice is a mistake, not the last one's victory."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys: set[object] = set()
        for key_node, _ in node.value:
            if key_node.tag == _MERGED:
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(
                    None, None, "a list or a mapping is no name", key_node.start_mark
                )
            if key in keys:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key!r} is given twice", key_node.start_mark
                )
            keys.add(key)
        return super().construct_mapping(node, deep)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _texts(name)
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def _complaint(place: str, detail: Any) -> str:
    where = ".".join(map(str, detail["loc"]))
    match detail["type"]:
        case "unexpected_keyword_argument":
            return f"{place}: {where} is not a setting.{_nearest(detail['loc'])}"
        case "missing" | "missing_argument":
            return f"{place}: {where} is missing. Give it."
        case _:
            return f"{place}: {where} is {_short(detail['input'])}. {detail['msg']}."


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"


def _nearest(place: tuple[str | int, ...]) -> str:
    """Where in the whole tree of settings the one meant by `place` is, as a hint."""
    *above, name = place
    paths = list(_settings(Experiment))
    nearest = get_close_matches(str(name), sorted({path[-1] for path in paths}), n=1)
    if nearest:
        path = min(
            (path for path in paths if path[-1] == nearest[0]),
            key=lambda path: (not _is_at(path[:-1], above), path[0] == "align"),
        )
        is_below = _is_at(path[:-1], above)
        return f" Did you mean {'.'.join(map(str, (*above, nearest[0]) if is_below else path))}?"
    if above and above[0] in ("train", "align"):
        return (
            f" Remove it, or give TRL's settings in {above[0]}.sft and PEFT's in {above[0]}.lora."
        )
    return " Remove it."


def _settings(kind: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every setting; NAME stands for the name of a data set."""
    for name, hint in get_type_hints(kind).items():
        if name not in kind.__dataclass_fields__:
            continue
        yield (*above, name)
        for inner, has_name in _dataclasses_in(hint):
            yield from _settings(inner, (*above, name, *(("NAME",) if has_name else ())))


def _dataclasses_in(hint: Any, has_name: bool = False) -> Iterator[tuple[Any, bool]]:
    if is_dataclass(hint):
        yield hint, has_name
    for part in get_args(hint):
        yield from _dataclasses_in(part, has_name or get_origin(hint) is dict)


def _is_at(pattern: tuple[str, ...], above: list[str | int]) -> bool:
    """Whether settings at `pattern` are those at a place of a file."""
    names = [part for part in above if not isinstance(part, int)]
    return len(pattern) == len(names) and all(
        expected in ("NAME", part) for expected, part in zip(pattern, names, strict=True)
    )
