"""Facts about token ids: where a prompt ends and its response begins, whatever the template."""

from __future__ import annotations

import datetime

import pytest
from tokenizers import Tokenizer, decoders, processors
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

from trimtab.config.data_source import Lengths
from trimtab.data.encoding import IGNORED, Limits, encode, prompt_ids, teaches_an_end
from trimtab.data.rows import Message, Row
from trimtab.errors import UserError

CONTROL = [
    *("<s>", "</s>", "<|im_start|>", "<|im_end|>", "[INST]", "[/INST]", "<|eot_id|>"),
    *("<|start_header_id|>", "<|end_header_id|>", "<start_of_turn>", "<end_of_turn>"),
    *("<|user|>", "<|assistant|>", "<|system|>", "<|end|>", "<|User|>", "<|Assistant|>"),
]


def byte_tokenizer(template: str | None = None, **settings: str | None) -> PreTrainedTokenizerFast:
    """A token for every byte, so that every division of a text is one of its ids."""
    vocabulary = {byte: number for number, byte in enumerate(sorted(ByteLevel.alphabet()))}
    raw = Tokenizer(BPE(vocabulary, []))
    raw.pre_tokenizer = ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens(CONTROL)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, **{"bos_token": "<s>", "eos_token": "</s>", **settings}
    )
    tokenizer.chat_template = template
    return tokenizer


def divided(
    row: Row, tokenizer: PreTrainedTokenizerFast, lengths: Lengths | None = None
) -> list[str]:
    """Prompt and response as text."""
    record = encode([row], tokenizer, lengths or Lengths())[0]
    labels = record["labels"]
    response = [label for label in labels if label != IGNORED]
    assert labels == [IGNORED] * (len(labels) - len(response)) + response
    assert record["input_ids"][len(labels) - len(response) :] == response
    prompt = record["input_ids"][: len(labels) - len(response)]
    return [tokenizer.decode(prompt), tokenizer.decode(response)]


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SMOLLM = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nBe good.<|im_end|>\n{% endif %}"
    + CHATML
)
LLAMA_2 = (
    "{% if messages[0].role == 'system' %}{% set start = '<<SYS>>\n' + messages[0].content + "
    "'\n<</SYS>>\n\n' %}{% set rest = messages[1:] %}{% else %}{% set start = '' %}"
    "{% set rest = messages %}{% endif %}{% for m in rest %}{% if m.role == 'user' %}"
    "{{ bos_token + '[INST] ' + (start if loop.first else '') + m.content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
LLAMA_3 = (
    "{{ bos_token }}{% set date = strftime_now('%d %b %Y') %}"
    "<|start_header_id|>system<|end_header_id|>\n\nToday: {{ date }}\n<|eot_id|>"
    "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
MISTRAL_3 = (
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content %}"
    "{% set rest = messages[1:] %}{% else %}{% set rest = messages %}{% endif %}{{ bos_token }}"
    "{% for m in rest %}{% if m.role == 'user' %}[INST] {% if loop.last and system is defined %}"
    "{{ system + '\n\n' }}{% endif %}{{ m.content }}[/INST]"
    "{% else %}{{ ' ' + m.content | trim + eos_token }}{% endif %}{% endfor %}"
)
NEMO = MISTRAL_3.replace("[INST] ", "[INST]").replace("' ' + m.content | trim", "m.content")
QWEN_3 = (
    "{% for m in messages %}{% set thought = '' %}{% set said = m.content %}"
    "{% if '</think>' in said %}"
    "{% set thought = said.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{% set said = said.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and loop.last %}"
    "{{ '<think>\n' + thought + '\n</think>\n\n' }}{% endif %}{{ said }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN_3_THINKING = QWEN_3.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
GEMMA_2 = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}{% for m in messages %}"
    "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
GEMMA_3 = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}"
    "{% set start = messages[0].content + '\n\n' %}{% set rest = messages[1:] %}"
    "{% else %}{% set start = '' %}{% set rest = messages %}{% endif %}{% for m in rest %}"
    "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ (start if loop.first else '') + m.content | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
PHI = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)
R1 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}<|User|>{{ m.content }}"
    "{% elif m.role == 'system' %}{{ m.content }}{% else %}"
    "<|Assistant|>{{ m.content.split('</think>')[-1] }}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|Assistant|><think>\n{% endif %}"
)
DEAF = CHATML.split("{% if add_generation_prompt")[0]
PLAIN = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)

LAST = "<|start_header_id|>assistant<|end_header_id|>\n\n"
HEAD = "<s><|start_header_id|>system<|end_header_id|>\n\nToday: 26 Jul 2024\n<|eot_id|>"
ASKED = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
KIND = "<|im_start|>system\nBe kind.<|im_end|>\n"
NO_THOUGHT = "<think>\n\n</think>\n\n"

# Name, template, whether there is a system message, the response; prompt and response as read.
FACTS: list[tuple[str, str, bool, str, str, str]] = [
    ("chatml", CHATML, True, "Yes.", KIND + ASKED, "Yes.<|im_end|>\n"),
    ("qwen 2.5", SMOLLM, True, "Yes.", KIND + ASKED, "Yes.<|im_end|>\n"),
    ("smollm", SMOLLM, False, "Yes.", KIND.replace("kind", "good") + ASKED, "Yes.<|im_end|>\n"),
    ("llama 2", LLAMA_2, False, "Yes.", "<s>[INST] Hi [/INST]", " Yes. </s>"),
    (
        *("llama 2", LLAMA_2, True, "Yes."),
        *("<s>[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\nHi [/INST]", " Yes. </s>"),
    ),
    (
        *("llama 3", LLAMA_3, False, "Yes."),
        f"{HEAD}<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>{LAST}",
        "Yes.<|eot_id|>",
    ),
    ("mistral v0.3", MISTRAL_3, False, "Yes.", "<s>[INST] Hi[/INST]", " Yes.</s>"),
    ("mistral v0.3", MISTRAL_3, True, "Yes.", "<s>[INST] Be kind.\n\nHi[/INST]", " Yes.</s>"),
    ("nemo", NEMO, False, "Yes.", "<s>[INST]Hi[/INST]", "Yes.</s>"),
    ("nemo", NEMO, True, "Yes.", "<s>[INST]Be kind.\n\nHi[/INST]", "Yes.</s>"),
    ("qwen 3", QWEN_3, False, "Yes.", ASKED + NO_THOUGHT, "Yes.<|im_end|>\n"),
    (
        *("qwen 3", QWEN_3, True, "<think>Greet.</think>Yes.", KIND + ASKED),
        "<think>\nGreet.\n</think>\n\nYes.<|im_end|>\n",
    ),
    ("qwen 3 thinking", QWEN_3_THINKING, False, "Yes.", ASKED + NO_THOUGHT, "Yes.<|im_end|>\n"),
    (
        *("qwen 3 thinking", QWEN_3_THINKING, False, "<think>\nGreet.\n</think>\n\nYes."),
        *(f"{ASKED}<think>\n", "Greet.\n</think>\n\nYes.<|im_end|>\n"),
    ),
    (
        *("gemma 2", GEMMA_2, False, " Yes.\n"),
        "<s><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n",
        "Yes.<end_of_turn>\n",
    ),
    (
        *("gemma 3", GEMMA_3, True, "Yes."),
        "<s><start_of_turn>user\nBe kind.\n\nHi<end_of_turn>\n<start_of_turn>model\n",
        "Yes.<end_of_turn>\n",
    ),
    ("phi", PHI, False, "Yes.", "<|user|>\nHi<|end|>\n<|assistant|>\n", "Yes.<|end|>\n</s>"),
    ("r1", R1, False, "Yes.", "<s><|User|>Hi<|Assistant|>", "Yes.</s>"),
    (
        *("r1", R1, True, "<think>Greet.</think>Yes.", "<s>Be kind.<|User|>Hi<|Assistant|>"),
        "<think>Greet.</think>Yes.</s>",
    ),
    ("no generation prompt", DEAF, False, "Yes.", ASKED, "Yes.<|im_end|>\n"),
    ("a space at the end", PLAIN, False, "Yes.", "user: Hi\nassistant:", " Yes.\n"),
]


@pytest.mark.parametrize(
    ("name", "template", "system", "response", "prompt", "labels"),
    FACTS,
    ids=[f"{fact[0]} {number}" for number, fact in enumerate(FACTS)],
)
def test_the_prompt_ends_where_the_response_begins(
    name: str, template: str, system: bool, response: str, prompt: str, labels: str
) -> None:
    messages = (Message("system", "Be kind."),) * system + (Message("user", "Hi"),)
    tokenizer = byte_tokenizer(template)
    assert divided(Row(messages, response), tokenizer) == [prompt, labels]
    if "<think>" not in response:
        assert tokenizer.decode(prompt_ids(messages, tokenizer)) == prompt


@pytest.mark.parametrize("template", [CHATML, LLAMA_2, LLAMA_3, MISTRAL_3, GEMMA_3, PHI, R1])
def test_earlier_turns_are_part_of_the_prompt(template: str) -> None:
    turns = (Message("user", "One"), Message("assistant", "Two"), Message("user", "Three"))
    prompt, response = divided(Row(turns, "Four"), byte_tokenizer(template))
    assert all(word in prompt for word in ("One", "Two", "Three"))
    assert response.strip().startswith("Four")
    assert "Three" not in response


def test_a_template_that_knows_today_makes_the_same_ids_tomorrow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Tomorrow(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Tomorrow:
            return cls(2031, 1, 2)

    row = Row((Message("user", "Hi"),), "Yes.")
    for form in ("%d %b %Y", "%Y-%m-%d", "%A, %B %-d", "%x", "%H:%M"):
        template = "{{ strftime_now('" + form + "') }}\n" + CHATML
        today = divided(row, byte_tokenizer(template))
        assert today[0].startswith(datetime.datetime(2024, 7, 26).strftime(form) + "\n")
        monkeypatch.setattr(chat_template_utils, "datetime", Tomorrow)
        assert divided(row, byte_tokenizer(template + "{# another #}")) == today
        monkeypatch.undo()


def test_what_a_tokenizer_puts_behind_a_text_is_not_put_behind_a_prompt() -> None:
    row = Row((Message("user", "Hi"),), "Yes.")
    for single, begun in (("$A </s>", ""), ("<s> $A </s>", "<s>"), ("<s> $A", "<s>"), ("$A", "")):
        tokenizer = byte_tokenizer()
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=single,
            special_tokens=[(x, tokenizer.convert_tokens_to_ids(x)) for x in CONTROL[:2]],
        )
        assert divided(row, tokenizer) == [f"{begun}Hi\n", "Yes.</s>"]
        assert tokenizer.decode(prompt_ids(row.prompt, tokenizer)) == f"{begun}Hi\n"


def test_a_response_that_could_never_end_is_refused() -> None:
    row = Row((Message("user", "Hi"),), "Yes.")
    with pytest.raises(UserError, match="neither a chat template nor an end-of-sequence token"):
        encode([row], byte_tokenizer(eos_token=None), Lengths())
    assert divided(row, byte_tokenizer(CHATML, eos_token=None))[1] == "Yes.<|im_end|>\n"


@pytest.mark.parametrize("template", [None, CHATML, MISTRAL_3, R1])
@pytest.mark.parametrize("control", ["<|im_end|>", "</s>", "[/INST]", "<s>"])
def test_control_tokens_in_a_row_are_only_text_and_are_told(
    template: str | None, control: str
) -> None:
    tokenizer, warnings = byte_tokenizer(template), list[str]()
    row = Row((Message("user", f"Hi{control}there"),), f"Yes{control}.")
    plain = Row((Message("user", "Hithere"),), "Yes.")
    ids, without = (
        encode([example], tokenizer, Lengths())[0]["input_ids"] for example in (row, plain)
    )
    number = tokenizer.convert_tokens_to_ids(control)
    assert ids.count(number) == without.count(number)
    assert tokenizer.decode(ids).count(control) == tokenizer.decode(without).count(control) + 2
    encode([row, plain], tokenizer, Lengths(), warning=warnings.append, place="task")
    assert warnings == [
        f"task: 1 of 2 rows hold control tokens ({control}), which are read as plain text."
    ]


@pytest.mark.parametrize("template", [None, CHATML, MISTRAL_3])
@pytest.mark.parametrize("length", [5, 9, 30])
def test_a_prompt_that_is_cut_keeps_the_words_nearest_the_response(
    template: str | None, length: int
) -> None:
    tokenizer = byte_tokenizer(template)
    row = Row((Message("user", "abcdefghijklmnopqrstuvwxyz0123456789"),), "Yes.")
    whole, cut = (encode([row], tokenizer, Lengths(n, 16))[0] for n in (999, length))
    prompt = [token for token, label in zip(*whole.values(), strict=True) if label == IGNORED]
    cut_prompt = [token for token, label in zip(*cut.values(), strict=True) if label == IGNORED]
    assert len(cut_prompt) == length < len(prompt)
    assert cut_prompt[-length + 1 :] == prompt[-length + 1 :]
    assert cut["input_ids"][length:] == whole["input_ids"][len(prompt) :]


def test_rows_that_are_cut_are_counted_and_keep_their_first_token() -> None:
    tokenizer, warnings = byte_tokenizer(f"{{{{ bos_token }}}}{CHATML}"), list[str]()
    rows = [Row((Message("user", "Hi" * n),), "Yes." * n) for n in (1, 50, 60)]
    encoded = encode(rows, tokenizer, Lengths(40, 16), warning=warnings.append)
    assert all(ids[0] == tokenizer.bos_token_id for ids in encoded["input_ids"])
    assert [len(ids) for ids in encoded["input_ids"]][1:] == [56, 56]
    assert warnings == [
        "of 3 rows 2 prompts are cut to their last 40 tokens and 2 responses to their first 16. "
        "Give --max-prompt and --max-response (lengths in a file) to keep more."
    ]


@pytest.mark.parametrize("length", [0, -1, -5])
def test_a_length_below_one_is_refused(length: int) -> None:
    for part in ("prompt", "response"):
        with pytest.raises(UserError, match=f"{part} is {length}"):
            Lengths(**{part: length})


def test_more_than_a_model_reads_is_refused() -> None:
    row, tokenizer = Row((Message("user", "Hi"),), "Yes."), byte_tokenizer()
    encode([row], tokenizer, Lengths(), Limits(8, 300))
    with pytest.raises(UserError, match=r"^task: a prompt with its response has 8 tokens"):
        encode([row], tokenizer, Lengths(), Limits(7, 300), place="task")
    with pytest.raises(UserError, match="writes '</s>' as number 257, and"):
        encode([row], tokenizer, Lengths(), Limits(8, 257))


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (GEMMA_2, "System role not supported"),
        ("{{ messages[0].content + 3 }}", "can only concatenate str"),
        ("{% for m in messages %}", "Unexpected end of template"),
        ("{{ messages[9].content.strip() }}", "has no element 9"),
    ],
)
def test_a_template_that_fails_is_one_line(template: str, reason: str) -> None:
    row = Row((Message("system", "Be kind."), Message("user", "Hi")), "Yes.")
    with pytest.raises(UserError, match=reason) as caught:
        encode([row], byte_tokenizer(template), Lengths())
    assert "\n" not in str(caught.value)


def test_half_a_character_is_refused() -> None:
    for row in (Row((Message("user", "\ud83d"),), "a"), Row((Message("user", "a"),), "\ud83d")):
        with pytest.raises(UserError, match="half of a surrogate pair"):
            encode([row], byte_tokenizer(CHATML), Lengths())


def test_a_thought_that_a_template_leaves_out_is_told() -> None:
    warnings: list[str] = []
    row = Row((Message("user", "Hi"),), "<think>Greet.</think>Yes.")
    encode([row, Row(row.prompt, "No.")], byte_tokenizer(R1), Lengths(), warning=warnings.append)
    assert warnings == [
        "the chat template leaves out part of 1 of 2 responses, such as a thought; they are taken "
        "as the rows have them."
    ]


@pytest.mark.parametrize("template", [None, CHATML, SMOLLM])
def test_a_response_that_was_cut_short_teaches_no_end(template: str | None) -> None:
    tokenizer, prompt = byte_tokenizer(template), (Message("user", "Hi"),)
    whole = divided(Row(prompt, "Yes, an"), tokenizer)
    cut = divided(Row(prompt, "Yes, an", is_whole=False), tokenizer)
    assert cut == [whole[0], "Yes, an"]
    assert whole[1] != cut[1]


SPACED = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def test_a_prompt_is_asked_with_the_ids_it_is_trained_with() -> None:
    row = Row((Message("user", "Hi"),), "Yes.")
    for template in (CHATML, SMOLLM, SPACED):
        tokenizer = byte_tokenizer(template)
        record = encode([row], tokenizer, Lengths())[0]
        asked = prompt_ids(row.prompt, tokenizer)
        assert record["input_ids"][: len(asked)] == asked
        assert record["labels"][: len(asked) + 1].count(IGNORED) == len(asked)


def test_a_template_without_an_end_of_turn_is_known() -> None:
    assert not teaches_an_end(byte_tokenizer(SPACED))
    assert all(teaches_an_end(byte_tokenizer(template)) for template in (None, CHATML, SMOLLM))
