"""Facts about the pages: their code runs, and every option that they name is one."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from types import ModuleType, SimpleNamespace
from xml.dom.minidom import parseString

import click
import pytest
import typer
from typer.testing import CliRunner

from trimtab.cli import app

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.rglob("*.md")])
OTHER_PAGES = [
    page for name in ("benchmarks", "experiments") for page in (ROOT / name).rglob("*.md")
]
MADE = {DOCS / name for name in ("examples.md", "papers.md", "reference/commands.md")}
"""Pages that docs/hooks make when the site is built."""
PAGES_WITH_PYTHON = sorted(
    path for path in DOCS.rglob("*.md") if "```python" in path.read_text("utf-8")
)
_NAMED = re.compile(r"(?<![\w/.-])trimtab [a-z][^`\n|#]*")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


def anchors_of(page: Path) -> set[str]:
    """What a heading is called in a link, as GitHub and MkDocs have it."""
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    "page", [*PAGES, *OTHER_PAGES], ids=lambda page: str(page.relative_to(ROOT))
)
def test_no_link_is_dead(page: Path) -> None:
    for link in _LINK.findall(page.read_text("utf-8")):
        if link.startswith(("http", "mailto:")):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if target in MADE:
            continue
        assert target.exists(), f"{link} leads nowhere"
        if anchor and target.suffix == ".md":
            assert anchor in anchors_of(target), f"{link} names no heading of {name}"


def hook(name: str) -> ModuleType:
    """A module of docs/hooks; a test skips where MkDocs, which some of them import, is not here."""
    try:
        return script(DOCS / "hooks" / f"{name}.py")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "mkdocs":
            raise
        pytest.skip("no MkDocs: `make docs` installs it")


def script(path: Path) -> ModuleType:
    """A file that is no part of a package, as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def commands() -> dict[tuple[str, ...], click.Command]:
    by_name: dict[tuple[str, ...], click.Command] = {}

    def gather(name: tuple[str, ...], command: click.Command) -> None:
        by_name[name] = command
        for part, subcommand in getattr(command, "commands", {}).items():
            gather((*name, part), subcommand)

    gather((), typer.main.get_command(app))
    return by_name


COMMANDS = commands()


def named_in(text: str) -> Iterator[str]:
    """Every `trimtab …` of a page, a continued line as one."""
    for match in _NAMED.finditer(re.sub(r"\\\n\s*", " ", text)):
        yield match[0].strip()


def options_of(words: list[str]) -> tuple[tuple[str, ...], set[str]]:
    """The command that words name, and the long options that it has."""
    name = max(
        (command for command in COMMANDS if tuple(words[: len(command)]) == command),
        key=len,
        default=(),
    )
    options = {"--help"}
    for parameter in COMMANDS[name].params:
        options.update((*parameter.opts, *parameter.secondary_opts))
    return name, options


def wrong_options(text: str) -> list[str]:
    """What a page says of commands that is not so."""
    wrong = []
    for line in named_in(text):
        words = line.split()[1:]
        name, options = options_of(words)
        if not name and words and words[0].isalpha() and f"trimtab {words[0]} --" in line:
            wrong.append(f"{line}: no such command")
        wrong += [
            f"{line}: no {option}"
            for option in _OPTION.findall(line if name else "")
            if option not in options
        ]
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_option_that_a_page_names_is_one_of_its_command(page: Path) -> None:
    assert wrong_options(page.read_text("utf-8")) == []


def test_an_option_that_is_none_is_found() -> None:
    assert wrong_options("`trimtab train --penalty 1 --no-such 2`") != []
    assert wrong_options("```sh\ntrimtab dial set dial \\\n    --budgets 2\n```") != []
    assert wrong_options("`trimtab trian --out run`") != []
    assert wrong_options("`trimtab dial set dial --budget 2`") == []


def test_every_option_that_a_page_names_alone_is_one_of_some_command() -> None:
    known = {option for name in COMMANDS for option in options_of(list(name))[1]}
    for page in PAGES:
        for span in re.findall(r"`(--[a-z][a-z-]*)[^`\n]*`", page.read_text("utf-8")):
            assert span in known | OTHERS, f"{page.name}: {span}"


OTHERS = {"--full-disk"}
"""Options of scripts of this repository that the pages name."""


@pytest.mark.parametrize("page", PAGES_WITH_PYTHON, ids=lambda page: str(page.relative_to(DOCS)))
def test_the_python_of_a_page_runs_and_prints_what_stands_below_it(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(
        r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", page.read_text("utf-8"), re.DOTALL
    )
    names: dict[str, object] = {}
    for code, printed in blocks:
        output = StringIO()
        with redirect_stdout(output):
            exec(compile(code, str(page), "exec"), names)
        if printed:
            assert output.getvalue() == printed


def test_the_output_on_the_first_page_is_what_the_command_prints() -> None:
    text = (DOCS / "index.md").read_text("utf-8")
    ((command, quoted),) = re.findall(r"```sh\n(.*?)\n```\n\n```text\n(.*?)```", text, re.DOTALL)
    _, name, folder, *options = shlex.split(command)
    printed = CliRunner().invoke(app, [name, str(ROOT / folder), *options])
    assert printed.output.replace(f"{ROOT}/", "").startswith(quoted)


def test_the_model_card_that_is_shown_is_what_is_written_now() -> None:
    card = script(DOCS / "start" / "card.py")
    assert card.CARD.read_text("utf-8") == card.card()


def test_every_formula_of_the_theory_becomes_a_picture_of_it() -> None:
    formulas = hook("formulas")
    marked = formulas._MATHS.sub(formulas._marked, (DOCS / "theory.md").read_text("utf-8"))
    assert "```math" not in marked
    assert len(formulas._formulas) > 250
    for formula in formulas._formulas:
        parseString(formula)


@pytest.mark.parametrize("formula", [r"\unknown x", r"\frac{a}{b", r"a }", r"\left( a"])
def test_a_formula_that_is_not_known_fails_the_build(formula: str) -> None:
    with pytest.raises(ValueError, match=r"formula|ends|closes|stands|known"):
        hook("formulas").mathml(formula)


def test_no_help_says_a_type_of_python() -> None:
    for name, command in COMMANDS.items():
        text = command.get_help(click.Context(command, info_name=" ".join(name)))
        assert "Range(" not in text, name
        assert "list[" not in text, name


def test_the_site_has_every_command_and_every_method_with_its_source() -> None:
    generated = hook("generated")
    commands_page, papers = generated.commands_page(), generated.papers_page()
    for name, command in COMMANDS.items():
        assert f"\n## {' '.join(('trimtab', *name))}\n" in commands_page
        for parameter in command.params:
            if "completion" not in str(parameter.opts):
                assert parameter.opts[0] in commands_page or parameter.opts[0] == "--help"
    for method in generated.PUBLISHED.values():
        (line,) = re.findall(rf"^\| `{re.escape(method.name)}`<br>.*$", papers, re.MULTILINE)
        assert "arXiv" in line or method.name == "random-subset"


def test_the_pages_name_no_place_of_the_machine_they_were_written_on() -> None:
    for page in [*PAGES, *(ROOT / "examples").glob("*"), ROOT / "mkdocs.yml"]:
        if page.is_file():
            assert not re.search(r"/work/|/tmp/|/home/", page.read_text("utf-8")), page


EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short_and_says_what_it_shows(path: Path) -> None:
    source = path.read_text("utf-8")
    assert source.startswith('"""')
    assert len(source.splitlines()) <= 50


@pytest.mark.parametrize("name", ["fine_tune_under_a_penalty", "one_dial_many_models"])
def test_an_example_runs(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    sys.modules.pop("small_world", None)
    example = script(ROOT / "examples" / f"{name}.py")
    example.main(steps=2, aligning=2)
    assert "safety loss" in capsys.readouterr().out


def test_the_notebook_runs_and_holds_no_output() -> None:
    cells = json.loads((ROOT / "examples/exact_world.ipynb").read_text("utf-8"))["cells"]
    names: dict[str, object] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            exec("".join(cell["source"]), names)
    assert set(names["frame"]["data"]) == {"near", "far", "original (the limit)"}  # type: ignore[index]


@pytest.mark.parametrize("heading", ["", "#a-budget"])
def test_a_link_out_of_the_pages_leads_to_a_copy_on_the_site(heading: str) -> None:
    page = SimpleNamespace(file=SimpleNamespace(src_uri="guides/budget.md"))
    outside = f"[conflict](../../experiments/conflict/README.md{heading})"
    within = f"[the dial](../dial.md{heading})"
    linked = hook("sources").on_page_markdown(f"{outside} {within}", page)
    assert linked == f"[conflict](../source/experiments/conflict/README.md.txt) {within}"
