"""No prompt is on both sides, in any role, and the same seed gives the same rows anywhere."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from trimtab.config.data_source import DataSource
from trimtab.data.rows import Message, Row, prompt_numbers
from trimtab.data.splits import Roles, Split, choose_rows, halves_by_prompt, load_roles, split_rows
from trimtab.errors import UserError

SHARED = Path(__file__).parents[3] / "shared" / "data"

texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
seeds = st.integers(0, 2**31)
shares = st.floats(0.05, 0.95)


def row(prompt: str, response: str = "yes") -> Row:
    return Row((Message("user", prompt),), response)


rows_of_text = st.lists(st.builds(row, texts, texts), max_size=30)


def prompts(rows: Iterable[Row]) -> set[tuple[Message, ...]]:
    return {row.prompt for row in rows}


def write(file: Path, pairs: Iterable[tuple[str, str]]) -> str:
    lines = (json.dumps({"prompt": prompt, "response": response}) for prompt, response in pairs)
    file.write_text("\n".join(lines))
    return file.name


def splits(roles: Roles) -> list[Split]:
    original = [roles.original] if roles.original else []
    return [*original, *roles.safety.values(), *roles.task.values()]


@given(rows_of_text, rows_of_text, shares, seeds)
def test_a_prompt_is_on_one_side_in_every_file(
    first: list[Row], second: list[Row], share: float, seed: int
) -> None:
    first_train, first_held_out = split_rows(first, share, seed)
    second_train, second_held_out = split_rows(second, share, seed)
    assert not prompts(first_train + second_train) & prompts(first_held_out + second_held_out)


@given(rows_of_text, shares, seeds, st.booleans())
def test_a_split_loses_nothing_and_keeps_the_order(
    rows: list[Row], share: float, seed: int, repeats: bool
) -> None:
    train, held_out = split_rows(rows, share, seed, repeats)
    remaining = {id(row) for row in train}
    assert sorted(map(id, train + held_out)) == sorted(map(id, rows))
    assert [id(row) for row in rows if id(row) in remaining] == [id(row) for row in train]


@given(shares, seeds, st.booleans())
def test_the_share_held_out_is_about_the_share_asked_for(
    share: float, seed: int, repeats: bool
) -> None:
    rows = [row(str(number % 7) if repeats else str(number)) for number in range(2000)]
    _, held_out = split_rows(rows, share, seed, repeats)
    # Six standard deviations of a binomial share.
    assert abs(len(held_out) / 2000 - share) < 6 * (share * (1 - share) / 2000) ** 0.5


@given(rows_of_text, st.integers(1, 30), st.integers(1, 30), seeds)
def test_a_smaller_limit_chooses_among_the_rows_of_a_larger_one(
    rows: list[Row], first: int, second: int, seed: int
) -> None:
    small, large = sorted([first, second])
    few, many = choose_rows(rows, small, seed), choose_rows(rows, large, seed)
    assert len(many) == min(large, len(rows))
    assert {id(row) for row in few} <= {id(row) for row in many}
    assert [row for row in rows if any(row is chosen for chosen in many)] == many


@given(st.lists(texts, min_size=1, max_size=30, unique_by=str.strip), st.integers(1, 30), seeds)
def test_files_that_share_prompts_keep_the_same_ones(
    shared: list[str], limit: int, seed: int
) -> None:
    near = choose_rows([row(prompt, "near") for prompt in shared], limit, seed)
    far = choose_rows([row(prompt, "far") for prompt in reversed(shared)], limit, seed)
    assert prompts(near) == prompts(far)


def test_halves_have_prompts_enough_and_not_rows_alone() -> None:
    """Rows of one prompt are one draw: a half of them would have no interval."""
    few = [row(f"prompt {number}", f"answer {place}") for number in range(3) for place in range(6)]
    with pytest.raises(UserError, match="safety near: 3 prompts are too few to choose by"):
        halves_by_prompt(few, 0, "safety near")
    halves = halves_by_prompt(few, 0, "safety near", repeats=True)
    assert min(map(len, halves)) >= 4


def test_blanks_round_a_message_make_no_other_prompt() -> None:
    rows = [row("ask"), row("ask "), row("tell")]
    assert Split("task", (), tuple(rows)).draws_held_out == 2
    numbers = prompt_numbers(rows)
    assert numbers is not None
    assert numbers.tolist() == [0, 0, 1]


def test_a_limit_on_draws_keeps_their_frequencies() -> None:
    draws = [row("common", str(number)) for number in range(900)]
    draws += [row("rare", str(number)) for number in range(100)]
    chosen = choose_rows(draws, 500, seed=3)
    rare = sum(draw.prompt[0].content == "rare" for draw in chosen)
    assert 25 < rare < 75


def test_the_split_of_a_seed_is_the_same_on_every_machine() -> None:
    rows = [row(str(number)) for number in range(12)]
    train, held_out = split_rows(rows, 0.3, seed=5)
    assert [draw.prompt[0].content for draw in held_out] == HELD_OUT
    assert [draw.prompt[0].content for draw in choose_rows(train, 3, seed=5)] == CHOSEN


HELD_OUT = ["0", "4", "5", "6", "9"]
CHOSEN = ["7", "8", "11"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    numbers = range(200)
    write(tmp_path / "original.jsonl", ((f"harm {n}", f"no {n}") for n in numbers))
    write(tmp_path / "near.jsonl", ((f"harm {n}", f"sorry {n}") for n in reversed(numbers)))
    write(tmp_path / "far.jsonl", ((f"harm {n}", f"never {n}") for n in numbers if n % 2))
    write(tmp_path / "code.jsonl", ((f"code {n}", f"print({n})") for n in numbers))
    return tmp_path


def test_no_role_trains_on_what_another_holds_out(folder: Path) -> None:
    roles = load_roles(
        DataSource("original.jsonl"),
        {"near": DataSource("near.jsonl", rows=50), "far": DataSource("far.jsonl")},
        {"code": DataSource("code.jsonl", rows=80, held_out_rows=10)},
        seed=1,
        data_root=folder,
    )
    assert roles.original is not None
    train = prompts(row for split in splits(roles) for row in split.train)
    held_out = prompts(row for split in splits(roles) for row in split.held_out)
    assert not train & held_out
    assert [split.label for split in splits(roles)] == [
        *("original", "safety near", "safety far", "task code")
    ]
    assert len(roles.original.train) + len(roles.original.held_out) == 200
    assert len(roles.safety["near"].train) == 50
    assert (len(roles.task["code"].train), len(roles.task["code"].held_out)) == (80, 10)
    assert prompts(roles.original.held_out) == prompts(roles.safety["near"].held_out)
    assert prompts(roles.safety["far"].held_out) < prompts(roles.original.held_out)
    assert roles.warnings == ()


def test_the_same_seed_gives_the_same_roles_and_another_gives_others(folder: Path) -> None:
    def load(seed: int) -> Roles:
        return load_roles(
            None,
            {"near": DataSource("near.jsonl", rows=50)},
            {"code": DataSource("code.jsonl")},
            seed,
            folder,
        )

    assert load(4) == load(4)
    assert load(4).safety["near"].train != load(5).safety["near"].train
    assert load(4).original is None


def test_unequal_shares_do_not_leak_and_are_counted(folder: Path) -> None:
    roles = load_roles(
        DataSource("original.jsonl", held_out=0.1),
        {"near": DataSource("near.jsonl", held_out=0.5)},
        {},
        seed=1,
        data_root=folder,
    )
    assert roles.original is not None
    train = len(roles.original.train)
    before = 200 - len(roles.original.held_out)
    assert not prompts(roles.original.train) & prompts(roles.safety["near"].held_out)
    assert roles.warnings == (
        f"original (original.jsonl): {before - train} of {before} training rows have a held-out "
        "prompt and are removed.",
    )


def test_few_held_out_prompts_are_told_and_one_is_refused(folder: Path) -> None:
    few = {"t": DataSource("code.jsonl", held_out_rows=9)}
    (warning,) = load_roles(None, {}, few, 0, folder).warnings
    assert warning.startswith("task t (code.jsonl): 9 prompts are held out, too few")
    one = DataSource("code.jsonl", held_out_rows=1)
    assert "one prompt is held out, which tells nothing" in error_of(folder, one)
    # Several answers to one prompt are one draw; draws that may come again are as many as rows.
    write(folder / "answers.jsonl", [("code 1", f"{n}") for n in range(30)])
    answers = DataSource("code.jsonl", held_out="answers.jsonl")
    assert "one prompt is held out" in error_of(folder, answers)
    roles = load_roles(None, {}, {"t": replace(answers, repeats=True)}, 0, folder)
    assert roles.warnings == ()


def test_a_held_out_file_is_held_out_whole(folder: Path) -> None:
    write(folder / "test.jsonl", [("code 3", "print(3)"), ("code 4", "else"), ("code x", "print")])
    roles = load_roles(
        None, {}, {"code": DataSource("code.jsonl", held_out="test.jsonl")}, 0, folder
    )
    code = roles.task["code"]
    assert [row.prompt[0].content for row in code.held_out] == ["code 3", "code 4", "code x"]
    assert len(code.train) == 198
    assert roles.warnings[:1] == (
        "task code (code.jsonl): 2 of 200 training rows have a held-out prompt and are removed.",
    )


def test_draws_that_may_come_again_are_not_looked_through_for_leaks(folder: Path) -> None:
    write(folder / "draws.jsonl", [("a", "b"), ("a", "c")] * 50)
    write(folder / "world.jsonl", [("a", "b"), ("a", "c")])
    whole = DataSource("draws.jsonl", held_out="world.jsonl", repeats=True)
    share = DataSource("draws.jsonl", held_out=0.3, repeats=True)
    roles = load_roles(None, {}, {"whole": whole, "share": share}, 0, folder)
    assert len(roles.task["whole"].train) == 100
    assert len(roles.task["share"].train) + len(roles.task["share"].held_out) == 100
    assert 15 < len(roles.task["share"].held_out) < 45
    assert (
        "task whole and task share read the same rows of draws.jsonl: their losses are one."
        in roles.warnings
    )


def test_the_same_source_in_two_roles_is_sound_and_said(folder: Path) -> None:
    roles = load_roles(
        DataSource("near.jsonl"), {"near": DataSource(str(folder / "near.jsonl"))}, {}, 0, folder
    )
    assert roles.original is not None
    assert roles.original.train == roles.safety["near"].train
    assert roles.warnings == ("original and safety near read the same rows of near.jsonl.",)


def test_safety_rows_in_the_file_of_the_task_are_counted(folder: Path) -> None:
    refusals = [(f"ask {n}", "no") for n in range(60)]
    write(folder / "safety.jsonl", refusals)
    others = [*((f"{n}", "b") for n in range(60)), ("ask 30", "yes")]
    write(folder / "mixed.jsonl", [*others, *refusals[:20]])
    safety, task = {"s": DataSource("safety.jsonl")}, {"t": DataSource("mixed.jsonl")}
    roles = load_roles(None, safety, task, 0, folder)
    train = roles.task["t"].train
    shared = sum(row.response == "no" for row in train)
    assert 0 < shared <= 20
    assert roles.warnings == (
        f"task t: {shared} of {len(train)} training rows are rows of safety s too, so that even "
        "plain fine-tuning is trained on safety data. Take them out of one file, unless that is "
        "what you mean.",
    )
    drawn = {"t": DataSource("mixed.jsonl", repeats=True)}
    warnings = load_roles(None, safety, drawn, 0, folder).warnings
    assert not any("plain fine-tuning" in warning for warning in warnings)


def test_repeated_rows_are_kept_and_counted(folder: Path) -> None:
    write(folder / "twice.jsonl", [(f"{n % 80}", "b") for n in range(160)])
    roles = load_roles(None, {}, {"t": DataSource("twice.jsonl")}, 0, folder)
    train = len(roles.task["t"].train)
    assert roles.warnings == (
        f"task t (twice.jsonl): {train // 2} of {train} training rows repeat another, and are "
        "kept.",
    )


def test_warnings_of_reading_are_collected(folder: Path) -> None:
    write(folder / "holes.jsonl", [(f"{n}", "b" if n else "") for n in range(50)])
    roles = load_roles(None, {}, {"t": DataSource("holes.jsonl", drop_empty=True)}, 0, folder)
    assert roles.warnings[:1] == (
        "holes.jsonl: 1 of 50 rows have an empty response and are left out.",
    )


def error_of(folder: Path, source: DataSource) -> str:
    with pytest.raises(UserError) as caught:
        load_roles(None, {}, {"t": source}, 0, folder)
    return str(caught.value)


def test_a_side_without_rows_is_an_error_with_its_mend(folder: Path) -> None:
    write(folder / "few.jsonl", [("a", "b")])
    assert error_of(folder, DataSource("few.jsonl", held_out=0.001)) == (
        "task t (few.jsonl): of 1 rows none is held out at a share of 0.001; rows of one prompt "
        "stay together. Give rows of more prompts or a file of held-out rows; if the rows are "
        "draws that may come again, set repeats: true."
    )
    assert "of 1 rows every one is held out at a share of 0.999; rows of" in error_of(
        folder, DataSource("few.jsonl", held_out=0.999)
    )
    write(folder / "same.jsonl", [("a", f"{n}") for n in range(60)])
    assert "of 60 rows with 1 prompts " in error_of(folder, DataSource("same.jsonl"))
    assert error_of(folder, DataSource("few.jsonl", held_out="few.jsonl")) == (
        "task t (few.jsonl): every prompt to train on is also held out, here or in another role. "
        "Give other held-out rows; if the rows are draws that may come again, set repeats: true."
    )
    assert error_of(folder, DataSource("few.jsonl", held_out="evaluation-set.jsonl")) == (
        f"evaluation-set.jsonl: no such file. Check the name; it was sought in {folder}."
    )


def test_another_split_on_the_hub_can_be_held_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def load_dataset(path: str, name: str | None, split: str) -> Dataset:
        rows = [{"prompt": f"{path} {name} {split} {n}", "response": "b"} for n in range(2)]
        return Dataset.from_list(rows)

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    source = DataSource("openai/gsm8k", name="main", held_out="test")
    math = load_roles(None, {}, {"math": source}, 0, tmp_path).task["math"]
    assert [row.prompt[0].content for row in math.train] == [
        *("openai/gsm8k main train 0", "openai/gsm8k main train 1")
    ]
    assert [row.prompt[0].content for row in math.held_out] == [
        *("openai/gsm8k main test 0", "openai/gsm8k main test 1")
    ]


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real data is not beside the repository")
def test_real_paired_files_hold_out_the_same_prompts() -> None:
    harmless = {"harmful": 0}
    roles = load_roles(
        DataSource("do-not-answer-gpt4.jsonl.gz", where=harmless),
        {"chatgpt": DataSource("do-not-answer-chatgpt.jsonl.gz", where=harmless)},
        {"code": DataSource("code-alpaca-davinci003.jsonl.gz", rows=500, held_out_rows=64)},
        seed=0,
        data_root=SHARED,
    )
    train = prompts(row for split in splits(roles) for row in split.train)
    held_out = prompts(row for split in splits(roles) for row in split.held_out)
    assert not train & held_out
    assert len(roles.task["code"].train) == 500
    assert len(roles.task["code"].held_out) == 64


def weighted(file: Path, weights: list[float]) -> str:
    records = [
        {"prompt": f"p{number}", "response": "r", "weight": weight}
        for number, weight in enumerate(weights)
    ]
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return file.name


def test_weights_are_the_probabilities_of_a_whole_held_out_distribution(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", [("a", "b")] * 3)
    whole = weighted(tmp_path / "whole.jsonl", [0.5, 0.25, 0.25])
    roles = load_roles(None, {}, {"t": DataSource(train, held_out=whole)}, data_root=tmp_path)
    assert [row.weight for row in roles.task["t"].held_out] == [0.5, 0.25, 0.25]
    ones = weighted(tmp_path / "ones.jsonl", [1.0] * 20)
    load_roles(None, {}, {"t": DataSource(ones)}, data_root=tmp_path)


@pytest.mark.parametrize(
    ("weights", "as_held_out", "limit", "message"),
    [
        ([0.5, 1.5] * 20, False, None, "weighs rows to train on"),
        ([0.025] * 40, False, None, "weighs rows to train on"),
        ([0.5, 1.5] * 2, True, None, "the column 'weight' adds up to 4, and probabilities to 1"),
        ([0.25, 0.25], True, None, "adds up to 0.5"),
        ([0.25] * 4, True, 2, "held_out_rows would keep 2 of 4"),
    ],
)
def test_a_weight_that_is_no_probability_is_refused(
    tmp_path: Path, weights: list[float], as_held_out: bool, limit: int | None, message: str
) -> None:
    train = write(tmp_path / "train.jsonl", [("a", "b")] * 3)
    file = weighted(tmp_path / "weighted.jsonl", weights)
    source = (
        DataSource(train, held_out=file, held_out_rows=limit) if as_held_out else DataSource(file)
    )
    with pytest.raises(UserError, match=message):
        load_roles(None, {}, {"t": source}, data_root=tmp_path)


def test_a_question_and_its_answer_do_not_leak_under_another_system_message(
    tmp_path: Path,
) -> None:
    lines = [
        {"system": system, "prompt": f"question {n}", "response": f"answer {n}"}
        for n in range(60)
        for system in ("be brief", "be kind", "be both")
    ]
    (tmp_path / "task.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    roles = load_roles(None, {}, {"t": DataSource("task.jsonl")}, data_root=tmp_path)
    split = roles.task["t"]
    answers = [{row.response for row in rows} for rows in (split.train, split.held_out)]
    assert not answers[0] & answers[1]
    (warning,) = roles.warnings
    removed = len(lines) - len(split.held_out) - len(split.train)
    assert removed
    assert f"task t (task.jsonl): {removed} of " in warning


def test_one_question_of_many_documents_in_the_system_message_is_many_prompts(
    tmp_path: Path,
) -> None:
    lines = [
        {"system": f"document {n}", "prompt": "summarise", "response": f"answer {n}"}
        for n in range(60)
    ]
    (tmp_path / "task.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    split = load_roles(None, {}, {"t": DataSource("task.jsonl")}, data_root=tmp_path).task["t"]
    assert len(split.train) + len(split.held_out) == 60
