"""Dataclasses of settings as options of a command: their defaults, ranges and docs, typed once."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache, wraps
from inspect import Parameter, signature
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer
import yaml
from pydantic import TypeAdapter

from trimtab.cli.panels import panel_of
from trimtab.config.ranges import stated
from trimtab.errors import UserError


@dataclass(frozen=True)
class Options:
    """How the fields of a dataclass are options, in the annotation of a command's parameter."""

    prefix: str = ""
    """What the options' names have before those of the fields."""
    without: tuple[str, ...] = ()
    """Fields that are no options."""


def settings_as_options(command: Callable[..., None]) -> Callable[..., None]:
    """The command with an option for every field of its parameters that are dataclasses.

    A field's option has its type, its range, its docstring as help, and its default: that of the
    parameter's own default where there is one. A field that is a mapping is a repeatable option
    NAME=VALUE, the value as in YAML.
    """
    hints = get_type_hints(command, include_extras=True)
    parameters: list[Parameter] = []
    packed: dict[str, tuple[Any, dict[str, str]]] = {}
    for parameter in signature(command).parameters.values():
        hint = hints[parameter.name]
        kind, *metadata = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        how = next((item for item in metadata if isinstance(item, Options)), Options())
        if not is_dataclass(kind):
            parameters.append(parameter.replace(annotation=hint, kind=Parameter.KEYWORD_ONLY))
            continue
        base = None if parameter.default is Parameter.empty else parameter.default
        options = {
            field.name: f"{how.prefix}{field.name}"
            for field in fields(kind)
            if field.name not in how.without
        }
        packed[parameter.name] = (kind, options)
        parameters += [_option(kind, name, option, base) for name, option in options.items()]

    mappings = [
        option
        for kind, options in packed.values()
        for name, option in options.items()
        if get_origin(get_type_hints(kind)[name]) is dict
    ]

    @wraps(command)
    def run(**arguments: Any) -> None:
        for name, (kind, options) in packed.items():
            values = {field: arguments.pop(option) for field, option in options.items()}
            arguments[name] = kind(
                **{field: _value(kind, field, values[field]) for field in values}
            )
        try:
            command(**arguments)
        except UserError as error:
            raise UserError(_by_options(str(error), mappings)) from None

    run.__signature__ = signature(command).replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters} | {
        "return": None
    }
    return run


@cache
def help_of(kind: Any, name: str) -> str:
    """What a field's docstring says, on one line, and its range where it says one."""
    text = " ".join(TypeAdapter(kind).json_schema()["properties"][name]["description"].split())
    number_range = stated(get_type_hints(kind, include_extras=True)[name])
    if number_range is None or number_range.whole:
        return text
    return f"{text} Range: {number_range.range}."


def _option(kind: Any, name: str, option: str, base: Any) -> Parameter:
    (field,) = (candidate for candidate in fields(kind) if candidate.name == name)
    hint = get_type_hints(kind, include_extras=True)[name]
    default = field.default if base is None else getattr(base, name)
    metavar, repeatable = None, ""
    if get_origin(hint) is dict:
        hint, default, metavar = list[str] | None, None, "NAME=VALUE"
        repeatable = " Repeatable."
    assert default is not MISSING, f"{kind.__name__}.{name}: an option without a default"
    typer_option = typer.Option(
        help=help_of(kind, name) + repeatable,
        metavar=metavar,
        rich_help_panel=panel_of(kind, name),
    )
    return Parameter(
        option, Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[hint, typer_option]
    )


def _by_options(message: str, mappings: Sequence[str]) -> str:
    """A message with settings of an experiment's file as the options that a command has for them.

    >>> _by_options("train.sft.seeed is no field. Did you mean sft.seed?", ["sft", "lora"])
    '--sft seeed is no field. Did you mean --sft seed?'
    """
    if not mappings:
        return message
    names = "|".join(mappings)
    prefixed = re.sub(rf"\b(?:\w+\.)?({names})\.(?=\w)", r"--\1 ", message)
    return re.sub(rf"\b\w+\.({names})\b", r"--\1", prefixed)


def _value(kind: Any, name: str, value: Any) -> Any:
    if get_origin(get_type_hints(kind)[name]) is not dict:
        return value
    return named_values(f"--{name}", value or [])


def named_values(option: str, settings: list[str]) -> dict[str, Any]:
    """The values of a repeatable option NAME=VALUE by name. Raises UserError.

    >>> named_values("--sft", ["weight_decay=0.01", "report_to=trackio"])
    {'weight_decay': 0.01, 'report_to': 'trackio'}
    """
    values: dict[str, Any] = {}
    for setting in settings:
        name, sign, text = setting.partition("=")
        if not (sign and name):
            raise UserError(f"{option} {setting!r} is no setting. Write {option} NAME=VALUE.")
        if name in values:
            raise UserError(f"{option} {name} is given twice. Give it once.")
        try:
            values[name] = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError):
            raise UserError(f"{option} {setting!r} has no value that YAML can read.") from None
    return values
