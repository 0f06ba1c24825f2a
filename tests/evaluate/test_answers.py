"""Facts about answers: generated once, kept, and gone on with to the same ones."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.evaluate.tiny import asked_prompts, chats_as, save_tiny_chat, served
from trimtab.errors import UserError
from trimtab.evaluate.answers import kept_answers
from trimtab.evaluate.backends import LocalModel
from trimtab.evaluate.endpoint import Endpoint
from trimtab.evaluate.engines import AnswerEngine, EndpointEngine, TransformersEngine, VllmEngine
from trimtab.results.generations import AskedPrompt, Decoding, Generation, read_generations

SAMPLED = Decoding(temperature=1.3, top_p=0.9, max_tokens=6, max_prompt=20, seed=3, batch_size=4)
GREEDY = replace(SAMPLED, temperature=0.0, top_p=1.0)
PROMPTS = [*asked_prompts(6), *asked_prompts(4, "benign")]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> TransformersEngine:
    return TransformersEngine(str(save_tiny_chat(tmp_path_factory.mktemp("model"))))


class Killed(TransformersEngine):
    """One that dies once it has answered some prompts."""

    remaining = 7

    def answer(
        self, prompts: Sequence[AskedPrompt], decoding: Decoding, first: int, finished: Any
    ) -> None:
        def count(place: int, answer: str) -> None:
            self.remaining -= 1
            if self.remaining < 0:
                raise KeyboardInterrupt
            finished(place, answer)

        super().answer(prompts, decoding, first, count)


@pytest.mark.parametrize("decoding", [SAMPLED, GREEDY], ids=["sampled", "greedy"])
def test_a_killed_run_goes_on_to_the_same_answers(
    engine: TransformersEngine, decoding: Decoding, tmp_path: Path
) -> None:
    whole = kept_answers(engine, PROMPTS, decoding, tmp_path / "whole.jsonl")
    path = tmp_path / "killed.jsonl"
    with pytest.raises(KeyboardInterrupt):
        kept_answers(Killed(engine.model), PROMPTS, decoding, path)
    assert len(read_generations(path)) == 4
    assert kept_answers(engine, PROMPTS, decoding, path) == whole
    assert path.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_a_line_cut_short_is_dropped_and_made_again(
    engine: TransformersEngine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "answers.jsonl"
    whole = kept_answers(engine, PROMPTS, SAMPLED, path)
    content = path.read_bytes()
    path.write_bytes(content[:-30])
    assert kept_answers(engine, PROMPTS, SAMPLED, path) == whole
    assert path.read_bytes() == content
    assert "line 10 was cut short" in caplog.text


def test_what_is_kept_is_not_made_again(engine: TransformersEngine, tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    whole = kept_answers(engine, PROMPTS, SAMPLED, path)
    unable = Killed(engine.model)
    unable.remaining = 0
    assert kept_answers(unable, PROMPTS, SAMPLED, path) == whole


def test_a_line_holds_all_that_made_the_answer(engine: TransformersEngine, tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    kept_answers(engine, PROMPTS, SAMPLED, path)
    record = json.loads(path.read_text().splitlines()[-1])
    assert record == {
        **record,
        "prompt": PROMPTS[-1].text,
        "kind": "benign",
        "prompt_set": "tiny",
        "model": engine.model,
        "temperature": 1.3,
        "top_p": 0.9,
        "max_tokens": 6,
        "seed": 3,
    }
    assert len(record["template"]) == 16
    assert Generation.from_json(record).to_json() == record


def test_a_conversation_is_kept_as_one() -> None:
    turns = (("system", "s"), ("user", "u"))
    generation = Generation(AskedPrompt(turns, "benign", "x"), "a", "m", "t", GREEDY)
    assert Generation.from_json(json.loads(json.dumps(generation.to_json()))) == generation
    assert generation.prompt.text == "system: s\n\nuser: u"


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"seed": 4}, "under seed 3, and 4 is asked for"),
        ({"temperature": 0.0}, r"under temperature 1\.3, and 0\.0 is asked for"),
        ({"batch_size": 2}, "under batch_size 4, and 2"),
    ],
)
def test_other_settings_are_one_line(
    engine: TransformersEngine, tmp_path: Path, changed: dict[str, Any], told: str
) -> None:
    path = tmp_path / "answers.jsonl"
    kept_answers(engine, PROMPTS, SAMPLED, path)
    with pytest.raises(UserError, match=f"{told}.*another --out, or remove the file"):
        kept_answers(engine, PROMPTS, replace(SAMPLED, **changed), path)


def test_a_model_trained_anew_in_its_folder_is_another(tmp_path: Path) -> None:
    path, folder = tmp_path / "answers.jsonl", save_tiny_chat(tmp_path / "model", seed=1)
    kept_answers(TransformersEngine(str(folder)), PROMPTS, SAMPLED, path)
    shutil.rmtree(folder)
    save_tiny_chat(folder, seed=2)
    with pytest.raises(UserError, match=r"under engine 'transformers \w{16}', and 'transf"):
        kept_answers(TransformersEngine(str(folder)), PROMPTS, SAMPLED, path)


def test_answers_of_before_engines_were_kept_are_taken(
    engine: TransformersEngine, tmp_path: Path
) -> None:
    path = tmp_path / "answers.jsonl"
    whole = kept_answers(engine, PROMPTS, SAMPLED, path)
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        del record["engine"]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    again = kept_answers(engine, PROMPTS, SAMPLED, path)
    assert [generation.answer for generation in again] == [one.answer for one in whole]


def test_other_prompts_or_another_model_are_one_line(
    engine: TransformersEngine, tmp_path: Path
) -> None:
    path = tmp_path / "answers.jsonl"
    kept_answers(engine, PROMPTS, SAMPLED, path)
    for prompts in (PROMPTS[::-1], PROMPTS[:5]):
        with pytest.raises(UserError, match="answers to other prompts"):
            kept_answers(engine, prompts, SAMPLED, path)
    save_tiny_chat(tmp_path / "other", seed=1)
    with pytest.raises(UserError, match="under model"):
        kept_answers(TransformersEngine(str(tmp_path / "other")), PROMPTS, SAMPLED, path)


def test_a_damaged_line_in_the_midst_is_one_line(
    engine: TransformersEngine, tmp_path: Path
) -> None:
    path = tmp_path / "answers.jsonl"
    kept_answers(engine, PROMPTS, SAMPLED, path)
    lines = path.read_text().splitlines(keepends=True)
    lines[2] = '{"prompt": "ask", "kind": "odd"}\n'
    path.write_text("".join(lines))
    with pytest.raises(UserError, match=r"line 3: not an answer .*or remove it to have"):
        read_generations(path)


def test_more_prompts_are_answered_as_one_run_would(
    engine: TransformersEngine, tmp_path: Path
) -> None:
    whole = kept_answers(engine, PROMPTS, SAMPLED, tmp_path / "whole.jsonl")
    kept_answers(engine, PROMPTS[:6], SAMPLED, tmp_path / "grown.jsonl")
    assert kept_answers(engine, PROMPTS, SAMPLED, tmp_path / "grown.jsonl") == whole


def test_temperature_and_top_p_bound_the_draw(engine: TransformersEngine, tmp_path: Path) -> None:
    greedy = kept_answers(engine, PROMPTS, GREEDY, tmp_path / "greedy.jsonl")
    cold = replace(SAMPLED, temperature=1e-4)
    narrow = replace(SAMPLED, top_p=1e-4)
    for name, decoding in (("cold", cold), ("narrow", narrow)):
        generations = kept_answers(engine, PROMPTS, decoding, tmp_path / f"{name}.jsonl")
        assert [generation.answer for generation in generations] == [
            generation.answer for generation in greedy
        ]
    drawn = kept_answers(engine, PROMPTS, SAMPLED, tmp_path / "drawn.jsonl")
    assert [generation.answer for generation in drawn] != [
        generation.answer for generation in greedy
    ]


def test_a_server_answers_as_its_model_here(engine: TransformersEngine, tmp_path: Path) -> None:
    with served(chats_as(LocalModel(engine.model))) as (url, heard):
        remote: AnswerEngine = EndpointEngine(Endpoint(url, "tiny", wait=0.0))
        generations = kept_answers(remote, PROMPTS, GREEDY, tmp_path / "remote.jsonl")
    here = kept_answers(engine, PROMPTS, GREEDY, tmp_path / "here.jsonl")
    assert [generation.answer for generation in generations] == [
        generation.answer for generation in here
    ]
    assert {generation.template for generation in generations} == {url}
    assert len({record["seed"] for record in heard}) == len(PROMPTS)


def test_vllm_is_asked_for_and_missing_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match="pip install vllm"):
        VllmEngine("any")


def test_vllm_is_given_the_same_token_ids_and_a_seed_of_its_own_for_each(
    engine: TransformersEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[Any] = []

    class LLM:
        def __init__(self, model: str) -> None:
            self.tokenizer = TransformersEngine(model).loaded[1]

        def generate(self, prompts: Any, draws: Any, use_tqdm: bool) -> list[Any]:
            requests.extend(zip(prompts, draws, strict=True))
            texts = [self.tokenizer.decode(prompt["prompt_token_ids"]) for prompt in prompts]
            return [SimpleNamespace(outputs=[SimpleNamespace(text=f" {text} ")]) for text in texts]

    params = lambda **more: more  # noqa: E731
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=LLM, SamplingParams=params))
    generations = kept_answers(VllmEngine(engine.model), PROMPTS, SAMPLED, tmp_path / "vllm.jsonl")
    assert [generation.answer for generation in generations] == [
        f"{prompt.text} tell" for prompt in PROMPTS
    ]
    assert len({draw["seed"] for _, draw in requests}) == len(PROMPTS)
    assert {(draw["temperature"], draw["top_p"]) for _, draw in requests} == {(1.3, 0.9)}
