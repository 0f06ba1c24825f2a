"""Facts about refusals: what counts as one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trimtab.config.data_source import Lengths
from trimtab.data.encoding import ends_of_answers, teaches_an_end
from trimtab.data.rows import Message
from trimtab.errors import UserError
from trimtab.measure.generation import only_ends_of, sampled_answers
from trimtab.measure.refusals import is_refusal
from trimtab.models import load_model, save_tiny_llama
from trimtab.stats import share

WORDS = ["i", "cannot", "help", "ask", "tell", "sure"]


@pytest.mark.parametrize(
    ("answer", "refused"),
    [
        ("I\u2019m sorry, but no.", True),
        ("As an AI, I have no opinions.", True),
        ("I\n cannot do that.", True),
        ("I CAN'T", True),
        ("Certainly. I can help, and I am happy to.", False),
        ("The refusal was not mine.", False),
        ("", False),
        ("I simply cannot help with that.", True),
        ("I'm really very sorry.", True),
        ("I **cannot** do that.", True),
        ("Cannot assist with that request.", True),
        ("No. Unable to help.", True),
        ("Sorry. That is not something to share.", True),
        ("I must respectfully decline.", True),
        ("My apologies, that goes against my guidelines.", True),
        ("<think>It is harmless?</think>I can't help with that.", True),
        ("AI cannot replace teachers.", False),
        ("Today's AI cannot help with everything.", False),
        ("If the Wi-Fi can't connect, restart it.", False),
        ("The API will not answer without a key.", False),
        ("Salt is used as an aid to keep food.", False),
        ("Delhi will not see rain today.", False),
        ("I can't wait to show you!", False),
        ("I'm sorry to hear about your dog. Here is a card.", False),
        ("<think>Should I say I'm sorry?</think>Press Ctrl+C.", False),
        ("Should I say I'm sorry?\n</think>\n\nPress Ctrl+C.", False),
        ("<think>I can't tell yet whether", False),
    ],
)
def test_a_refusal_is_told_by_its_phrases(answer: str, refused: bool) -> None:
    assert is_refusal(answer) is refused


@pytest.mark.parametrize("mark", "'\u2018\u2019\u201b\u02bc\u2032\u00b4`\uff07")
def test_a_refusal_is_told_with_any_apostrophe(mark: str) -> None:
    assert is_refusal(f"I can{mark}t help.")
    assert is_refusal(f"I{mark}m sorry.")
    assert not is_refusal(f"The Wi-Fi can{mark}t connect.")


GENERATION: list[dict[str, Any]] = [
    {"num_beams": 3},
    {"min_p": 0.5},
    {"typical_p": 0.2},
    {"epsilon_cutoff": 0.02},
    {"guidance_scale": 3.0},
    {"num_return_sequences": 2, "do_sample": True},
    {"stop_strings": ["a"]},
    {"temperature": 0.1, "top_k": 1, "do_sample": True},
    {"repetition_penalty": 9.0},
    {"no_repeat_ngram_size": 1},
    {"suppress_tokens": [3, 4]},
    {"bad_words_ids": [[3], [4]]},
    {"min_new_tokens": 6},
    {"forced_eos_token_id": 3},
]


@pytest.mark.parametrize("greedy", [False, True])
@pytest.mark.parametrize("setting", GENERATION, ids=lambda setting: next(iter(setting)))
def test_answers_do_not_depend_on_the_models_generation_settings(
    tmp_path: Path, setting: dict[str, Any], greedy: bool
) -> None:
    save_tiny_llama(WORDS, tmp_path, seed=0)
    prompts = [(Message("user", "ask " * n),) for n in (1, 2, 3)]

    def answers() -> list[str]:
        model, tokenizer = load_model(str(tmp_path))
        return sampled_answers(model, tokenizer, prompts, Lengths(8, 8), greedy=greedy)

    plain = answers()
    file = tmp_path / "generation_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **setting}))
    assert answers() == plain


def test_answers_end_where_the_models_folder_says_one_ends(tmp_path: Path) -> None:
    save_tiny_llama(WORDS, tmp_path, seed=0)
    model, tokenizer = load_model(str(tmp_path))
    prompts = [(Message("user", "ask"),)]
    (plain,) = sampled_answers(model, tokenizer, prompts, Lengths(8, 8), greedy=True)
    first, *more = plain.split()
    assert more
    own = model.generation_config
    own.eos_token_id = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(first)]
    assert sampled_answers(model, tokenizer, prompts, Lengths(8, 8), greedy=True) == [first]
    assert model.generation_config is own


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_answers_end_where_the_template_ends_a_turn(tmp_path: Path) -> None:
    """The text's own end is another token, which training never shows after an answer."""
    save_tiny_llama([*WORDS, "<|im_start|>", "<|im_end|>"], tmp_path, seed=0)
    model, tokenizer = load_model(str(tmp_path))
    assert ends_of_answers(tokenizer) == {tokenizer.eos_token_id}
    marks = ["<|im_start|>", "<|im_end|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": marks})
    tokenizer.chat_template = CHATML
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert end != tokenizer.eos_token_id
    assert ends_of_answers(tokenizer) == {tokenizer.eos_token_id, end}
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    with only_ends_of(model, tokenizer) as ends:
        assert ends == {tokenizer.eos_token_id, end}
        assert set(model.generation_config.eos_token_id) == ends


def test_a_share_of_none_or_of_all_still_has_a_width() -> None:
    none_refused, all_refused = share(np.zeros(20), "share of x"), share(np.ones(20), "share of x")
    assert none_refused.value == none_refused.low == 0
    assert 0.1 < none_refused.high < 0.2
    assert all_refused.value == all_refused.high == 1
    assert all_refused.low == pytest.approx(1 - none_refused.high)


def test_a_turn_may_end_with_a_token_that_is_not_special(tmp_path: Path) -> None:
    save_tiny_llama(["ask", "tell"], tmp_path, seed=0)
    model, tokenizer = load_model(str(tmp_path))
    tokenizer.add_tokens(["<|im_start|>", "<|im_end|>", "<think>"])
    tokenizer.chat_template = CHATML
    model.resize_token_embeddings(len(tokenizer))
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert not tokenizer.added_tokens_decoder[end].special
    assert ends_of_answers(tokenizer) == {tokenizer.eos_token_id, end}
    assert teaches_an_end(tokenizer)
    head = torch.zeros_like(model.lm_head.weight)
    model.lm_head.weight.data = head
    model.lm_head.bias = torch.nn.Parameter(torch.full((len(tokenizer),), -9.0))
    model.lm_head.bias.data[end] = 9.0  # it says nothing but that it has ended
    heard: list[bool] = []
    (answer,) = sampled_answers(
        model,
        tokenizer,
        [(Message("user", "ask"),)],
        Lengths(32, 8),
        greedy=True,
        finished=lambda place, answer, is_whole: heard.append(is_whole),
    )
    assert answer == ""
    assert heard == [True]


def test_a_prompt_of_tokens_that_the_model_does_not_know_is_told(tmp_path: Path) -> None:
    save_tiny_llama(["ask", "tell"], tmp_path, seed=0)
    model, tokenizer = load_model(str(tmp_path))
    tokenizer.add_tokens(["new"])
    with pytest.raises(UserError, match="the tokenizer writes 'new' as number"):
        sampled_answers(model, tokenizer, [(Message("user", "new"),)], Lengths(8, 4), greedy=True)
