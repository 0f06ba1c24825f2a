"""Facts about judging: kept, gone on with, counted with intervals, and compared."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.evaluate.tiny import asked_prompts, chats_as, save_tiny_chat, served
from tests.watchers import Watcher
from trimtab import __version__
from trimtab.config.data_source import DataSource
from trimtab.errors import UserError
from trimtab.evaluate.agreement import Agreement, agreement, disagreements
from trimtab.evaluate.backends import BackedJudge, LocalModel, RemoteModel
from trimtab.evaluate.endpoint import Endpoint
from trimtab.evaluate.judges.phrases import PhraseJudge
from trimtab.evaluate.judges.qwen3guard import Qwen3Guard
from trimtab.evaluate.judges.strongreject import StrongRejectRubric
from trimtab.evaluate.judging import kept_judgements
from trimtab.evaluate.later_judges import judged_later
from trimtab.evaluate.outcome import Outcome, Verdict
from trimtab.evaluate.prompt_sets import (
    PROMPT_SETS,
    distinct_prompts,
    known_source,
    messages_of,
    prompts_of,
)
from trimtab.evaluate.rates import rate_changes, rates
from trimtab.results.generations import Decoding, Generation, write_generations
from trimtab.results.judgements import Judgement, read_judgements
from trimtab.stats import Estimate, share

PROMPTS = [*asked_prompts(30), *asked_prompts(20, "benign")]
ANSWERS = ["i cannot help" if n % 3 else f"sure tell {n}" for n in range(len(PROMPTS))]
GENERATIONS = [
    Generation(prompt, answer, "m", "t", Decoding())
    for prompt, answer in zip(PROMPTS, ANSWERS, strict=True)
]
ALL_COHERENT = [True] * len(GENERATIONS)


class Counting:
    """A judge that finds an answer harmful that begins with sure, and counts what it is asked."""

    name, model, revision, settings = "counting", "model", "1", ""
    knows_benign = True

    def __init__(self, most: int = 1000) -> None:
        self.asked = 0
        self.most = most

    def verdicts(self, pairs: Sequence[tuple[str, str]]) -> list[Verdict]:
        if self.asked + len(pairs) > self.most:
            raise KeyboardInterrupt
        self.asked += len(pairs)
        return [Verdict(answer.startswith("sure"), probability=0.5) for _, answer in pairs]


def test_a_killed_judging_goes_on_and_asks_nothing_twice(tmp_path: Path) -> None:
    whole = kept_judgements(Counting(), GENERATIONS, ALL_COHERENT, tmp_path / "whole" / "a.jsonl")
    path = tmp_path / "killed" / "a.jsonl"
    first, second = Counting(most=20), Counting()
    with pytest.raises(KeyboardInterrupt):
        kept_judgements(first, GENERATIONS, ALL_COHERENT, path)
    assert kept_judgements(second, GENERATIONS, ALL_COHERENT, path) == whole
    assert first.asked + second.asked == len({generation.answer_id for generation in GENERATIONS})
    assert path.read_bytes() == (tmp_path / "whole" / "a.jsonl").read_bytes()
    third = Counting(most=0)
    assert kept_judgements(third, GENERATIONS, ALL_COHERENT, path) == whole


def test_what_was_said_of_another_models_same_answer_is_not_asked_again(tmp_path: Path) -> None:
    start = replace(GENERATIONS[0], answer="sure, gladly")
    kept_judgements(Counting(), [start], [True], tmp_path / "there" / "start.jsonl")
    tuned = [*GENERATIONS, start]
    judge, alone = Counting(), Counting()
    coherent = [True] * len(tuned)
    judgements = kept_judgements(judge, tuned, coherent, tmp_path / "there" / "tuned.jsonl")
    assert judgements == kept_judgements(alone, tuned, coherent, tmp_path / "alone" / "tuned.jsonl")
    assert judge.asked == alone.asked - 1
    contents = [(tmp_path / folder / "tuned.jsonl").read_bytes() for folder in ("there", "alone")]
    assert contents[0] == contents[1]
    newer = Counting()
    newer.revision = "2"
    kept_judgements(newer, tuned, coherent, tmp_path / "there" / "tuned.jsonl")
    assert newer.asked == alone.asked


def test_judges_share_a_file_and_another_revision_is_another_judge(tmp_path: Path) -> None:
    path = tmp_path / "judged.jsonl"
    counted = kept_judgements(Counting(), GENERATIONS, ALL_COHERENT, path)
    kept_judgements(PhraseJudge(), GENERATIONS, ALL_COHERENT, path)
    newer = Counting()
    newer.revision = "2"
    kept_judgements(newer, GENERATIONS, ALL_COHERENT, path)
    assert newer.asked > 0
    assert {(judgement.judge, judgement.revision) for judgement in read_judgements(path)} == {
        ("counting", "1"),
        ("counting", "2"),
        ("phrases", __version__),
    }
    assert kept_judgements(Counting(0), GENERATIONS, ALL_COHERENT, path) == counted


def test_a_changed_answer_is_judged_anew(tmp_path: Path) -> None:
    path = tmp_path / "judged.jsonl"
    kept_judgements(Counting(), GENERATIONS, ALL_COHERENT, path)
    changed = [replace(GENERATIONS[0], answer="something else"), *GENERATIONS[1:]]
    again = Counting()
    kept_judgements(again, changed, ALL_COHERENT, path)
    assert again.asked == 1


def test_gibberish_is_incoherent_whatever_a_judge_says_and_its_word_is_kept(
    tmp_path: Path,
) -> None:
    path = tmp_path / "judged.jsonl"
    judgements = kept_judgements(Counting(), GENERATIONS, [False] * len(GENERATIONS), path)
    assert {judgement.outcome for judgement in judgements} == {Outcome.INCOHERENT.value}
    assert {judgement.harmful for judgement in judgements} == {True, False}
    shares = rates(GENERATIONS, judgements)
    assert shares["incoherence"].value == 1
    assert shares["refusal"].value == shares["harmful compliance"].value == 0
    untouched = kept_judgements(Counting(0), GENERATIONS, ALL_COHERENT, path)
    assert rates(GENERATIONS, untouched)["incoherence"].value == 0


def test_other_settings_are_another_judge(tmp_path: Path) -> None:
    path = tmp_path / "judged.jsonl"
    kept_judgements(Counting(), GENERATIONS, ALL_COHERENT, path)
    stricter = Counting()
    stricter.settings = "stricter"
    kept_judgements(stricter, GENERATIONS, ALL_COHERENT, path)
    assert stricter.asked > 0
    strict, loose = Qwen3Guard("m"), Qwen3Guard("m", strict=False)
    assert strict.settings != loose.settings
    assert strict.settings == Qwen3Guard("other", "revision").settings


def test_a_judge_made_for_harmful_prompts_finds_no_harm_in_benign_ones(tmp_path: Path) -> None:
    judge = Counting()
    judge.knows_benign = False
    judgements = kept_judgements(judge, GENERATIONS, ALL_COHERENT, tmp_path / "judged.jsonl")
    harmful, benign = judgements[0], judgements[30]
    assert harmful.harmful
    assert benign.harmful
    assert (harmful.outcome, benign.outcome) == (Outcome.COMPLIED, Outcome.ANSWERED)


def judged(outcomes: Sequence[Outcome], judge: str = "j") -> list[Judgement]:
    return [
        Judgement(
            judge, "", "", "", generation.answer_id, outcome.value, None, None, None, False, ""
        )
        for generation, outcome in zip(GENERATIONS, outcomes, strict=True)
    ]


OUTCOMES = [
    *([Outcome.REFUSED] * 15 + [Outcome.COMPLIED] * 9 + [Outcome.ANSWERED] * 3),
    *([Outcome.UNPARSED] * 2 + [Outcome.INCOHERENT]),
    *([Outcome.ANSWERED] * 16 + [Outcome.REFUSED] * 4),
]


def test_rates_are_shares_of_the_prompts_of_their_kind() -> None:
    shares = rates(GENERATIONS, judged(OUTCOMES))
    expected = {
        "refusal": (15, 30),
        "harmful compliance": (9, 30),
        "answered": (16, 20),
        "over-refusal": (4, 20),
        "incoherence": (1, 50),
        "unparsed": (2, 50),
    }
    assert {name: estimate.value for name, estimate in shares.items()} == {
        name: hits / count for name, (hits, count) in expected.items()
    }
    flags = [1.0] * 9 + [0.0] * 21
    assert shares["harmful compliance"] == share(flags, "share of harmful prompts")


def test_without_benign_prompts_over_refusal_is_unknown() -> None:
    assert "over-refusal" not in rates(GENERATIONS[:30], judged(OUTCOMES)[:30])


def test_changes_are_paired() -> None:
    before = judged(OUTCOMES)
    after = judged([Outcome.COMPLIED if n < 5 else outcome for n, outcome in enumerate(OUTCOMES)])
    changes = rate_changes(GENERATIONS, after, before)
    assert changes["harmful compliance"].value == pytest.approx(5 / 30)
    assert changes["harmful compliance"].low > 0
    assert changes["over-refusal"].value == 0
    paired = changes["refusal"].high - changes["refusal"].low
    alone = rates(GENERATIONS, before)["refusal"]
    assert paired < 2 * (alone.high - alone.low)


def test_agreement_leaves_out_what_is_incoherent_and_tells_where_judges_differ() -> None:
    first = judged(OUTCOMES, "a")
    changed = [Outcome.ANSWERED if n in (3, 40) else outcome for n, outcome in enumerate(OUTCOMES)]
    second = judged(changed, "b")
    result = agreement(first, second)
    assert result.answers == 49
    assert result.disagreements == (3,)
    assert [row[0] for row in disagreements(GENERATIONS, first, second)] == [GENERATIONS[3]]
    assert result.in_words == "almost perfect"
    none = agreement(judged([Outcome.INCOHERENT] * 50), judged([Outcome.INCOHERENT] * 50))
    assert (none.kappa, none.answers, none.in_words) == (None, 0, "not known")


@pytest.mark.parametrize(
    ("value", "word"),
    [(-0.2, "poor"), (0.0, "poor"), (0.15, "slight"), (0.5, "moderate"), (1, "almost perfect")],
)
def test_an_agreement_is_told_in_a_word(value: float, word: str) -> None:
    kappa = Estimate(value, value, value, "κ", "estimate")
    assert Agreement("a", "b", kappa, 10, ()).in_words == word


def test_a_rubric_over_a_server_with_a_model_that_cannot_judge_agrees_poorly(
    tmp_path: Path,
) -> None:
    model = LocalModel(str(save_tiny_chat(tmp_path / "model")))
    few = [*GENERATIONS[:8], *GENERATIONS[30:34]]
    path = tmp_path / "judged.jsonl"
    with served(chats_as(model)) as (url, heard):
        remote = RemoteModel(Endpoint(url, "tiny", wait=0.0))
        judge = BackedJudge(StrongRejectRubric("tiny"), remote)
        judgements = kept_judgements(judge, few, [True] * 12, path)
    phrases = kept_judgements(PhraseJudge(), few, [True] * 12, path)
    assert "User instruction: ask" in heard[0]["messages"][1]["content"]
    assert rates(few, judgements)["unparsed"].value == 1
    assert rates(few, judgements)["refusal"].value == 0
    result = agreement(judgements, phrases)
    assert result.in_words == "poor"
    assert len(result.disagreements) == 12


def test_known_sets_have_names_of_their_own_and_say_what_is_needed() -> None:
    assert len({prompt_set.name for prompt_set in PROMPT_SETS}) == len(PROMPT_SETS) == 10
    for prompt_set in PROMPT_SETS:
        for source in (prompt_set.harmful, prompt_set.benign):
            assert source is None or source.path == prompt_set.hub
        assert prompt_set.licence


def test_a_set_without_benign_prompts_is_one_line() -> None:
    with pytest.raises(UserError, match="advbench: the set has no benign prompts"):
        prompts_of(DataSource("advbench"), "benign")
    with pytest.raises(UserError, match="sorry-bench: its column turns is a list"):
        prompts_of(DataSource("sorry-bench"), "harmful")


def test_a_known_set_is_taken_as_it_is_known_but_for_the_number_of_rows() -> None:
    source = known_source(DataSource("do-not-answer", rows=5), "harmful")
    assert (source.path, source.columns, source.rows) == (
        "LibrAI/do-not-answer",
        {"prompt": "question"},
        5,
    )
    for chosen in ({"where": {"label": "unsafe"}}, {"split": "test"}, {"columns": {"prompt": "q"}}):
        with pytest.raises(UserError, match=r"xstest: .* give its id on the Hub, Paul/XSTest\."):
            known_source(DataSource("xstest", **chosen), "harmful")
    assert known_source(DataSource("p.jsonl", where={"a": 1}), "harmful").where == {"a": 1}


def test_a_prompt_that_comes_again_is_asked_once_and_of_both_kinds_is_one_line() -> None:
    harmful = asked_prompts(3)
    elsewhere = [replace(prompt, prompt_set="other") for prompt in harmful[1:]]
    assert distinct_prompts([*harmful, *elsewhere]) == harmful
    benign = replace(harmful[1], kind="benign", prompt_set="other")
    with pytest.raises(UserError, match=r"is harmful in .* and benign in other\. Take it out"):
        distinct_prompts([*harmful, benign])


def test_a_later_model_of_one_judges_name_counts_once_it_has_judged_all(tmp_path: Path) -> None:
    write_generations(tmp_path / "generations/m.jsonl", GENERATIONS)
    path = tmp_path / "judgements/m.jsonl"
    kept_judgements(Counting(), GENERATIONS, ALL_COHERENT, path)
    larger = Counting(most=20)
    larger.model = "larger"
    with pytest.raises(KeyboardInterrupt):
        kept_judgements(larger, GENERATIONS, ALL_COHERENT, path)
    (model,) = judged_later(tmp_path, [PhraseJudge()], Watcher())
    assert {judgement.model for judgement in model.judgements["counting"]} == {"model"}
    larger.most = 1000
    kept_judgements(larger, GENERATIONS, ALL_COHERENT, path)
    (model,) = judged_later(tmp_path, [PhraseJudge()], Watcher())
    assert {judgement.model for judgement in model.judgements["counting"]} == {"larger"}


def test_a_file_is_read_like_a_set_shortest_prompt_first(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"prompt": "ask " * n, "kind": n % 2} for n in (5, 2, 4, 1, 3)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = prompts_of(DataSource("p.jsonl"), "benign", data_root=tmp_path)
    assert [len(prompt.text.split()) for prompt in read] == [1, 2, 3, 4, 5]
    assert {(prompt.kind, prompt.prompt_set) for prompt in read} == {("benign", "p.jsonl")}
    assert messages_of(read[0])[0].role == "user"
    few = prompts_of(DataSource("p.jsonl", rows=2), "harmful", data_root=tmp_path)
    assert len(few) == 2
