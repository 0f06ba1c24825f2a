"""Facts about the whole path, and the command that walks it."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tests.evaluate.tiny import asked_prompts, chats_as, completion, save_tiny_chat, served
from trimtab.analysis.labels import points_in_words
from trimtab.cli import app
from trimtab.cli.evaluate import change_cell, rate_cell
from trimtab.errors import UserError
from trimtab.evaluate.backends import BackedJudge, LocalModel, RemoteModel
from trimtab.evaluate.evaluation import evaluate
from trimtab.evaluate.judges.base import Judge, Reply
from trimtab.evaluate.judges.phrases import PhraseJudge
from trimtab.evaluate.named_judges import judge_named
from trimtab.results.generations import Decoding, read_generations
from trimtab.results.judgements import read_judgements
from trimtab.runner.sweep import SilentWatcher
from trimtab.stats import Estimate

DECODING = Decoding(max_tokens=8, max_prompt=20, batch_size=4)


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluated")
    save_tiny_chat(folder / "start")
    save_tiny_chat(folder / "tuned", seed=1)
    for kind, begins in (("harmful", ""), ("benign", "i ")):
        rows = [{"prompt": begins + prompt.text} for prompt in asked_prompts(8)]
        (folder / f"{kind}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def command(folder: Path, *more: object) -> tuple[object, ...]:
    prompts = ("--harmful", folder / "harmful.jsonl", "--benign", folder / "benign.jsonl")
    lengths = ("--max-tokens", 8, "--max-prompt", 20, "--batch-size", 4)
    return (folder / "start", folder / "tuned", *prompts, *lengths, *more)


def test_the_command_answers_judges_and_compares(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "240")
    arguments = command(folder, "--judge", "phrases", "--out", tmp_path)
    with served(chats_as(LocalModel(str(folder / "start")))) as (url, _):
        shown = invoke(*arguments, "--judge", f"strongreject={url}/tiny")
    assert shown.exit_code == 0, shown.output
    for word in ("over-refusal", "change", "start: phrases and strongreject: agreement is"):
        assert word in shown.output
    for name in ("start", "tuned"):
        assert len(read_generations(tmp_path / "generations" / f"{name}.jsonl")) == 16
        judged = read_judgements(tmp_path / "judgements" / f"{name}.jsonl")
        assert {judgement.judge for judgement in judged} == {"phrases", "strongreject"}
        differing = (tmp_path / "disagreements" / f"{name}.jsonl").read_text().splitlines()
        for line in differing:
            record = json.loads(line)
            assert record["phrases"] != record["strongreject"]
    again = invoke(*arguments, "--judge", f"strongreject={url}/tiny")
    assert again.stdout == shown.stdout  # the server is gone, and was not needed


def test_the_tables_have_whole_words_on_eighty_columns(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = invoke(*command(folder, "--judge", "phrases", "--out", tmp_path / "short"))
    assert shown.exit_code == 0, shown.output
    tables, _, _ = shown.stdout.partition("What is kept")
    assert "…" not in tables
    assert max(map(len, tables.splitlines())) <= 80
    for title in ("Harmful prompts, n = 8", "Benign prompts, n = 8", "All prompts, n = 16"):
        assert tables.count(title) == 1
    for name in ("refusal", "harmful compliance", "answered", "over-refusal", "incoherence"):
        assert name in tables
    assert tables.count("tuned ") == 3
    assert tables.count("  change ") == 3
    assert tables.count(" points") >= 3
    for line in tables.splitlines():
        assert not ("  change " in line and "%" in line)


def test_a_change_of_a_share_is_in_points_and_has_the_pages_minus() -> None:
    share = Estimate(-0.94, -0.97, -0.86, "share of harmful prompts", "estimate")
    assert change_cell(share) == points_in_words(share) == "−94 points [−97, −86]"
    assert rate_cell(replace(share, value=0.06, low=0.03, high=0.14)) == "6 % (3 to 14)"
    assert change_cell(Estimate(-0.5, -1.25, 0.25, "f1", "estimate")) == "−0.5 [−1.25, +0.25]"


def by_length(prompt: str, answer: str) -> str:
    return "refused" if len(answer) % 2 else "answered harmlessly"


def test_the_tables_of_two_judges_fit_eighty_columns(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    long = tmp_path / "penalty-1--task--seed-0"
    save_tiny_chat(long)
    monkeypatch.setitem(sys.modules, "own_judges", sys.modules[__name__])
    first, _, *options = command(folder, "--judge", "phrases", "--judge", "own_judges:by_length")
    shown = invoke(first, long, *options, "--out", tmp_path / "two")
    assert shown.exit_code == 0, shown.output
    tables, _, _ = shown.stdout.partition("\n1: phrases and own_judges:by_length: ")
    assert tables.startswith(f"1: start\n2: {long.name}\n")
    assert max(map(len, tables.splitlines())) <= 80
    assert tables.count("1         own_judges:by_length") + tables.count("1         phrases") == 6


def test_the_stages_are_told_where_there_is_no_terminal(folder: Path, tmp_path: Path) -> None:
    shown = invoke(*command(folder, "--judge", "phrases", "--out", tmp_path / "told"))
    for line in ("answering: start", "answering: tuned", "phrases judges tuned"):
        assert shown.stderr.splitlines().count(line) == 1


def test_models_with_long_names_are_numbered(folder: Path, tmp_path: Path) -> None:
    long = tmp_path / "a-model-with-a-name-longer-than-a-column-has-room-for"
    save_tiny_chat(long)
    _, second, *options = command(folder, "--judge", "phrases", "--out", tmp_path / "numbered")
    shown = invoke(long, second, *options)
    assert shown.exit_code == 0, shown.output
    tables, _, _ = shown.stdout.partition("What is kept")
    assert tables.startswith(f"1: {long.name}\n2: tuned\n")
    assert tables.count(long.name) == 1


def test_answers_of_weights_in_half_precision_are_kept_as_such(
    folder: Path, tmp_path: Path
) -> None:
    options = command(folder, "--judge", "phrases", "--out", tmp_path / "half")
    shown = invoke(*options, "--dtype", "bfloat16")
    assert shown.exit_code == 0, shown.output
    for name in ("start", "tuned"):
        (made_by,) = {
            one.engine
            for one in read_generations(tmp_path / "half" / "generations" / f"{name}.jsonl")
        }
        assert made_by.startswith("transformers bfloat16 ")
    again = invoke(*options)
    assert again.exit_code == 2
    assert "holds answers under engine 'transformers bfloat16 " in again.stderr
    elsewhere = invoke(*options, "--dtype", "bfloat16", "--engine", "http://localhost:1/v1")
    assert (
        "--engine http://localhost:1/v1 holds the model's weights its own way" in elsewhere.stderr
    )


def test_a_model_beside_itself_does_not_change(folder: Path, tmp_path: Path) -> None:
    start = str(folder / "start")
    prompts = [*asked_prompts(6), *asked_prompts(6, "benign")]
    evaluation = evaluate(
        [start, start], prompts, [PhraseJudge()], tmp_path, SilentWatcher(), DECODING
    )
    first, second = evaluation.models
    assert (first.name, second.name) == ("start", "start-2")
    assert {change.value for change in second.changes("phrases", first).values()} == {0.0}


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--judge", "nobody"], "no such judge. Give qwen3guard, granite-guardian"),
        (["--judge", "strongreject"], "has no model of its own"),
        (["--judge", "phrases", "--judge", "phrases"], "one judge twice"),
        (["--judge", "no_such_module:judge"], "Give module:function"),
        (["--judge", "phrases", "--engine", "gpu"], "is no URL"),
        (["--judge", "phrases", "--top-p", "0"], "--top-p is 0.0. Give a number above 0 to 1."),
        (["--judge", "phrases", "--harmful", "hex-phi"], "have no header"),
        (["--judge", "strongreject=http://127.0.0.1:9/v1/m", "--rows", "1"], "cannot be reached"),
    ],
)
def test_a_mistake_is_one_line(
    folder: Path, tmp_path: Path, more: list[str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trimtab.evaluate.endpoint.time.sleep", lambda seconds: None)
    shown = invoke(*command(folder, "--out", tmp_path, *more))
    assert shown.exit_code == 2
    last = shown.output.splitlines()[-1]
    assert last.startswith("trimtab: ")
    assert told in last


def test_nothing_to_ask_is_one_line(folder: Path, tmp_path: Path) -> None:
    shown = invoke(folder / "start", "--judge", "phrases", "--out", tmp_path)
    assert "Give --harmful or --benign" in shown.output


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--surprised", "smollm2"),
        ("--temperature", 1),
        ("--top-p", 0.9),
        ("--max-tokens", 8),
        ("--max-prompt", 20),
        ("--seed", 3),
    ],
)
def test_what_is_of_answers_is_refused_beside_tasks_alone(
    option: str, value: object, folder: Path, tmp_path: Path
) -> None:
    tasks = (folder / "start", "--out", tmp_path, "--lm-eval", "choice", "--batch-size", 4)
    shown = invoke(*tasks, option, value)
    assert shown.exit_code == 2
    last = shown.output.splitlines()[-1]
    assert last == f"trimtab: {option} is of answers to prompts. Give --harmful or --benign too."


@pytest.mark.parametrize(
    ("given", "model", "url"),
    [
        ("qwen3guard", "Qwen/Qwen3Guard-Gen-0.6B", ""),
        ("qwen3guard=Qwen/Qwen3Guard-Gen-4B", "Qwen/Qwen3Guard-Gen-4B", ""),
        ("wildguard=http://h:1/v1/a/b", "a/b", "http://h:1/v1"),
        ("wildguard=http://h:1/v1", "allenai/wildguard", "http://h:1/v1"),
        ("wildguard=http://h:1", "allenai/wildguard", "http://h:1/v1"),
        ("wildguard=http://h:1/v1/", "allenai/wildguard", "http://h:1/v1"),
    ],
)
def test_a_judge_is_named_with_where_its_model_is(given: str, model: str, url: str) -> None:
    judge = judge_named(given)
    assert isinstance(judge, BackedJudge)
    assert judge.model == model
    assert isinstance(judge.backend, RemoteModel) == bool(url)
    if isinstance(judge.backend, RemoteModel):
        assert judge.backend.endpoint.url == url


def test_a_pinned_revision_goes_with_the_judges_own_model_alone() -> None:
    own: Judge = judge_named("granite-guardian")
    assert len(own.revision) == 40
    elsewhere = judge_named("granite-guardian=elsewhere")
    assert isinstance(elsewhere, BackedJudge)
    assert vars(elsewhere.backend)["_asked_revision"] is None


def test_a_server_that_answers_for_the_models_is_an_engine(folder: Path, tmp_path: Path) -> None:
    options = ("--judge", "phrases", "--out", tmp_path, "--max-tokens", 8, "--max-prompt", 20)
    prompts = ("--harmful", folder / "harmful.jsonl", "--surprised", folder / "start")
    with served(lambda record: (200, completion(Reply("i cannot help ask tell")))) as (url, heard):
        shown = invoke("of-the-server", *prompts, *options, "--engine", url)
    assert shown.exit_code == 0, shown.output
    assert len(heard) == 8
    assert {record["model"] for record in heard} == {"of-the-server"}


def test_no_judges_is_a_mistake(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing to evaluate"):
        evaluate([str(folder / "start")], asked_prompts(2), [], tmp_path, SilentWatcher())
