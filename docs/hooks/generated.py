"""Pages that are made from the package at every build: commands, papers, examples."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import typer
from mkdocs.structure.files import File

from trimtab.cli.command import help_record
from trimtab.cli.commands import app
from trimtab.config.methods import OWN, PUBLISHED, Method
from trimtab.evaluate.judges import MODEL_JUDGES
from trimtab.evaluate.judges.phrases import PhraseJudge

ROOT = Path(__file__).parents[2]


def on_files(files: Any, config: Any) -> Any:
    """Add the pages."""
    for path, content in (
        ("reference/commands.md", commands_page()),
        ("papers.md", papers_page()),
        ("examples.md", examples_page()),
    ):
        files.append(File.generated(config, path, content=content))
    return files


def all_commands() -> Iterator[tuple[str, click.Command]]:
    """Every command by its whole name, a group before its own, in the order of `--help`."""

    def below(name: str, command: Any) -> Iterator[tuple[str, click.Command]]:
        yield name, command
        for part, subcommand in getattr(command, "commands", {}).items():
            yield from below(f"{name} {part}", subcommand)

    yield from below("trimtab", typer.main.get_command(app))


def commands_page() -> str:
    """One section for each command, from what its `--help` says."""
    parts = ["# The command line", "", "Made from what each command's `--help` says.", ""]
    for name, command in all_commands():
        context = click.Context(command, info_name=name, terminal_width=90)
        usage = " ".join([name, *command.collect_usage_pieces(context)])
        about = inspect.cleandoc(command.help or "")
        parts += ["## " + name, "", about, "", "```text", usage, "```", ""]
        for parameter in command.params:
            record = help_record(parameter, context)
            if record is None or "--help" in parameter.opts or "completion" in record[0]:
                continue
            option, text = (" ".join(part.split()) for part in record)
            parts += [f"`{option}`", f":   {escaped(text) or '–'}", ""]
    return "\n".join(parts)


def papers_page() -> str:
    """The paper, then each method with the source that its docstring names."""
    kinds: tuple[Any, ...] = (*MODEL_JUDGES, PhraseJudge)
    judges = [(judge.name, inspect.getdoc(judge) or "") for judge in kinds]
    parts = [
        "# The papers behind each method",
        "",
        "trimtab implements the framework of Chen, Shen, Das and Chen, *Fundamental "
        "Safety-Capability Trade-offs in Fine-tuning Large Language Models*, 2025, "
        "[arXiv 2503.20807](https://arxiv.org/abs/2503.20807); [Concepts](concepts.md) explains "
        "it. Each name below is what an experiment's file calls the method. What is said of it, "
        "and its source, stand in the docstring of its class.",
        "",
        "## The two cases and what trimtab adds",
        "",
        *_table(list(OWN.values())),
        "## Published methods",
        "",
        "Run by [`trimtab compare`](comparison.md), or one by one in a grid.",
        "",
        *_table(list(PUBLISHED.values())),
        "## Judges",
        "",
        "| judge | source |",
        "|---|---|",
        *(f"| `{name}` | {linked(source_of(docstring))} |" for name, docstring in judges),
        "",
    ]
    return "\n".join(parts)


def _table(methods: list[Method]) -> list[str]:
    lines = ["| method | what it does | source |", "|---|---|---|"]
    for method in methods:
        if method.home is None:
            continue
        docstring = _docstring_of(method.home)
        first = escaped(" ".join(docstring.split("\n\n")[0].split()))
        lines.append(
            f"| `{method.name}`<br>{method.title} | {first} | {linked(source_of(docstring))} |"
        )
    return [*lines, ""]


def _docstring_of(home: str) -> str:
    # Read, not imported: a build then needs no torch.
    module, _, name = home.partition(":")
    path = ROOT / "src/trimtab/train" / (module.replace(".", "/") + ".py")
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return ast.get_docstring(node) or ""
    raise LookupError(home)


def source_of(docstring: str) -> str:
    """What stands after `Source:` in a docstring; a dash where nothing does."""
    match = re.search(r"^Source:(.*?)(?:\n\n|\Z)", docstring, re.DOTALL | re.MULTILINE)
    return escaped(" ".join(match[1].split())).rstrip(".") if match else "–"


def escaped(text: str) -> str:
    """The text as it is, in Markdown and in a cell of its tables."""
    return re.sub(r"([|*_<\[\]])", r"\\\1", text)


def linked(text: str) -> str:
    """The text with arXiv's numbers as links."""
    return re.sub(r"arXiv (\d{4}\.\d{5})", r"[arXiv \1](https://arxiv.org/abs/\1)", text)


def examples_page() -> str:
    """Each script of examples/ under its own docstring."""
    parts = [
        "# Examples",
        "",
        "Short scripts on the built-in world, a small set of prompts and answers whose exact "
        "limits are known. Nothing is downloaded. `make examples` runs them all. The notebook "
        "`examples/exact_world.ipynb` draws the exact frontier of that world.",
        "",
    ]
    for path in sorted((ROOT / "examples").glob("*.py")):
        source = path.read_text("utf-8")
        about = ast.get_docstring(ast.parse(source)) or ""
        code = source.split('"""', 2)[2].strip()
        title = path.stem.replace("_", " ").capitalize()
        parts += [f"## {title}", "", about, "", f'```python title="examples/{path.name}"']
        parts += [code, "```", ""]
    return "\n".join(parts)
