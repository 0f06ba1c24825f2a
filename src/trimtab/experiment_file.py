"""An experiment's YAML file: read with every mistake told by its place, written, and compared."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import replace
from difflib import get_close_matches, unified_diff
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from trimtab.data.rows import DataSource, Lengths
from trimtab.errors import UserError
from trimtab.experiment import (
    SMOLLM2,
    Block,
    Dial,
    Experiment,
    Measuring,
    RefusalPrompts,
    Training,
)

EXPERIMENT_FILE = "experiment.yaml"

_RECIPES = Path(__file__).parent / "recipes"

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
        text = (_RECIPES / f"{path}.yaml" if is_recipe else path).read_text(encoding="utf-8")
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


def parse_experiment(text: str, place: str) -> Experiment:
    """The experiment of a YAML text; `place` names it in errors. Raises UserError."""
    try:
        given = yaml.load(text, _NoRepeats)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{place} line {line}: {error.problem}. Mend the line.") from None
    if not isinstance(given, Mapping):
        raise UserError(f"{place}: not an experiment. Give model, task, safety and grid.")
    return experiment_from(given, place)


def experiment_from(given: Mapping[str, Any], place: str) -> Experiment:
    """The experiment of plain mappings, lists and values; `place` names them in errors.

    Raises:
        UserError: a field is unknown, missing or of the wrong kind; every such field on one line.
    """
    try:
        return _EXPERIMENT.validate_python(given)
    except ValidationError as error:
        raise UserError("; ".join(_complaint(place, detail) for detail in error.errors())) from None
    except UserError as error:
        raise UserError(f"{place}: {error}") from None


def to_yaml(experiment: Experiment) -> str:
    """The experiment with every default written out; `parse_experiment` reads it back."""
    given = _EXPERIMENT.dump_python(experiment, mode="json", exclude_none=True)
    return yaml.safe_dump(given, sort_keys=False, allow_unicode=True)


def differences(before: str, after: Experiment) -> list[str]:
    """The lines by which an experiment as recorded differs from one to be run; none when equal.

    Where the data lies and whether models are kept may change; what is trained may not.
    """
    recorded = parse_experiment(before, EXPERIMENT_FILE)
    old, new = (
        to_yaml(replace(one, data_root=".", keep_models=None)).splitlines()
        for one in (recorded, after)
    )
    return [
        line
        for line in unified_diff(old, new, lineterm="", n=0)
        if line[:1] in "+-" and line[:3] not in ("+++", "---")
    ]


class _NoRepeats(yaml.SafeLoader):
    """A safe loader to which a key given twice is a mistake, not the last one's victory."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key!r} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def _complaint(place: str, detail: Any) -> str:
    where = ".".join(map(str, detail["loc"]))
    match detail["type"]:
        case "unexpected_keyword_argument":
            return f"{place}: {where} is not a setting.{_nearest(detail['loc'])}"
        case "missing" | "missing_argument":
            return f"{place}: {where} is missing. Give it."
        case _:
            return f"{place}: {where} is {detail['input']!r}. {detail['msg']}."


def _nearest(place: tuple[str | int, ...]) -> str:
    names = [
        name
        for kind in (
            Experiment,
            Training,
            Block,
            Dial,
            Measuring,
            Lengths,
            DataSource,
            RefusalPrompts,
        )
        for name in kind.__dataclass_fields__
    ]
    near = get_close_matches(str(place[-1]), names, n=1)
    return f" Did you mean {near[0]}?" if near else " Remove it."
