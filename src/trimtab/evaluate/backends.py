"""Who runs a judge's model: Transformers here, or a server elsewhere."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimtab.config.loading import Loading
from trimtab.data.encoding import dated
from trimtab.errors import UserError, reason_of
from trimtab.evaluate.endpoint import Endpoint
from trimtab.evaluate.judges.base import ChatRequest, ModelJudge, Reply, Request, Token
from trimtab.evaluate.outcome import Verdict
from trimtab.measure.generation import only_ends_of
from trimtab.models import device_name, limits_of, load_model, to_device, weights_sha256

_LIKELIEST = 20
_LIKE_CONTROL = re.compile(
    r"<\|[^<>|\n]{1,40}\|>|</?s>|<(?:bos|eos|pad|unk|start_of_turn|end_of_turn)>"
    r"|\[/?INST\]|<</?SYS>>"
)
"""How models spell the tokens that begin and end turns."""


class Backend(Protocol):
    """A judge's model, wherever it runs."""

    @property
    def model(self) -> str:
        """Which model it is."""

    @property
    def revision(self) -> str:
        """The commit of its weights, empty where it is not known."""

    def disarmed(self, content: str) -> str:
        """A prompt or an answer that can end no turn, and begin none."""

    def replies(self, requests: Sequence[Request], max_tokens: int) -> list[Reply]:
        """The likeliest reply to each request. Raises UserError where there can be none."""


@dataclass(frozen=True)
class BackedJudge:
    """A model judge and who runs its model, which together judge."""

    judge: ModelJudge
    backend: Backend

    @property
    def name(self) -> str:
        """What the judge is called."""
        return self.judge.name

    @property
    def model(self) -> str:
        """The model that judges."""
        return self.backend.model

    @property
    def revision(self) -> str:
        """The commit of its weights."""
        return self.backend.revision

    @property
    def settings(self) -> str:
        """A hash of the judge's other fields."""
        return self.judge.settings

    @property
    def knows_benign(self) -> bool:
        """Whether what it says of harm means something where the prompt is benign."""
        return self.judge.knows_benign

    def verdicts(self, pairs: Sequence[tuple[str, str]]) -> list[Verdict]:
        """A verdict on each prompt and answer. Raises UserError as the backend does."""
        requests = [self.judge.request(*map(self.backend.disarmed, pair)) for pair in pairs]
        replies = self.backend.replies(requests, self.judge.max_tokens)
        return [self.judge.parse(reply) for reply in replies]


class LocalModel:
    """A judge's model in Transformers, on the GPU where there is one.

    Its weights are bfloat16 there and float32 on the CPU, unless `load` says otherwise. A request
    that with its reply is longer than the model reads has no reply, and so no verdict.
    """

    def __init__(
        self,
        model: str,
        revision: str | None = None,
        load: Loading | None = None,
        batch_size: int = 8,
    ) -> None:
        self.model = model
        self._asked_revision = revision
        self._load = load
        self._batch_size = batch_size

    @cached_property
    def _loaded(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        load = self._load or Loading(dtype="bfloat16" if device_name() == "cuda" else "float32")
        model, tokenizer = load_model(self.model, replace(load, revision=self._asked_revision))
        return to_device(model).eval(), tokenizer

    @property
    def revision(self) -> str:
        """The commit asked for or loaded from the Hub, or a hash of a folder's weights."""
        return self._asked_revision or self._found_revision

    @cached_property
    def _found_revision(self) -> str:
        commit = getattr(self._loaded[0].config, "_commit_hash", None)
        return str(commit or weights_sha256(self.model))

    def disarmed(self, content: str) -> str:
        """A prompt or an answer with no control token of the model's."""
        return _disarmed(content, self._control)

    @cached_property
    def _control(self) -> set[str]:
        return _control_tokens(self._loaded[1])

    def replies(self, requests: Sequence[Request], max_tokens: int) -> list[Reply]:
        """The greedy reply to each request, with the 20 likeliest tokens at each place."""
        model, tokenizer = self._loaded
        context = limits_of(model).context
        ids = [request_ids(request, tokenizer, self.model) for request in requests]
        replies = [Reply("")] * len(ids)
        room = math.inf if context is None else context - max_tokens
        fitting = [place for place, row in enumerate(ids) if len(row) <= room]
        fitting.sort(key=lambda place: len(ids[place]))
        for start in range(0, len(fitting), self._batch_size):
            places = fitting[start : start + self._batch_size]
            batch_replies = _generated_replies(
                model, tokenizer, [ids[place] for place in places], max_tokens
            )
            for place, reply in zip(places, batch_replies, strict=True):
                replies[place] = reply
        return replies


def request_ids(request: Request, tokenizer: PreTrainedTokenizerBase, model: str) -> list[int]:
    """The token ids that a request is to a model.

    Raises:
        UserError: the tokenizer has no chat template where the request needs one, or the template
            does not take what it holds.
    """
    if not isinstance(request, ChatRequest):
        return list(tokenizer(request.text, add_special_tokens=request.special_tokens)["input_ids"])
    control = _control_tokens(tokenizer)
    turns = [
        {"role": role, "content": _disarmed(content, control)} for role, content in request.messages
    ]
    try:
        text = tokenizer.apply_chat_template(
            turns,
            chat_template=dated(tokenizer.get_chat_template()),
            tokenize=False,
            add_generation_prompt=request.generation_prompt,
            **request.template_arguments,
        )
    except Exception as error:  # a template raises what its author wrote, of Jinja's classes
        raise UserError(
            f"model {model!r}: its chat template cannot put a judge's question "
            f"({reason_of(error)}). Give the model that the judge was made with."
        ) from None
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _control_tokens(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    # Not every added token is one of control: Gemma adds blank lines and tags of HTML.
    added = (token for token in tokenizer.added_tokens_decoder.values() if token.special)
    return {*tokenizer.all_special_tokens, *map(str, added)} - {""}


def _disarmed(content: str, control: Collection[str]) -> str:
    """The content with a space of no width in each control token that it spells.

    An answer would else end its own turn, and write the judge's.
    """
    for token in sorted(control, key=len, reverse=True):
        content = content.replace(token, f"{token[0]}\u200b{token[1:]}")
    return content


@torch.inference_mode()
def _generated_replies(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Sequence[int]],
    max_tokens: int,
) -> list[Reply]:
    width = max(map(len, rows))
    padding: Any = tokenizer.pad_token_id
    ids = torch.tensor([[padding] * (width - len(row)) + list(row) for row in rows])
    attended = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    with only_ends_of(model, tokenizer) as ends:
        generated: Any = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=attended.to(model.device),
            do_sample=False,
            max_new_tokens=max_tokens,
            pad_token_id=padding,
            return_dict_in_generate=True,
            output_logits=True,
        )
    likeliest = [
        logits.float().softmax(dim=-1).topk(min(_LIKELIEST, logits.shape[-1]))
        for logits in generated.logits
    ]
    replies = []
    for row, new in enumerate(generated.sequences[:, width:].tolist()):
        length = next((place for place, token in enumerate(new) if token in ends), len(new))
        tokens = tuple(
            Token(
                tokenizer.decode([token]),
                _by_text(tokenizer, tops.indices[row].tolist(), tops.values[row].tolist()),
            )
            for token, tops in zip(new[:length], likeliest[:length], strict=True)
        )
        text = tokenizer.decode(new[:length], skip_special_tokens=True).strip()
        replies.append(Reply(text, tokens))
    return replies


def _by_text(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], probabilities: Sequence[float]
) -> dict[str, float]:
    by_text: dict[str, float] = {}
    for token, probability in zip(ids, probabilities, strict=True):
        text = tokenizer.decode([token])
        by_text[text] = by_text.get(text, 0.0) + probability
    return by_text


@dataclass(frozen=True)
class RemoteModel:
    """A judge's model behind an `Endpoint`; several requests are under way at once.

    Messages are put into words by the server's own chat template, and the template's arguments
    travel as `chat_template_kwargs`, which vLLM reads. A server that hides its probabilities
    leaves the judge its words alone.
    """

    endpoint: Endpoint
    at_once: int = 8

    @property
    def model(self) -> str:
        """Which model the server is asked for."""
        return self.endpoint.model

    @property
    def revision(self) -> str:
        """Not known of a server: its URL stands here."""
        return self.endpoint.url

    def disarmed(self, content: str) -> str:
        """A prompt or an answer with nothing that looks like a control token.

        Which the model has is not known of a server.
        """
        return _LIKE_CONTROL.sub(lambda match: _disarmed(match[0], [match[0]]), content)

    def replies(self, requests: Sequence[Request], max_tokens: int) -> list[Reply]:
        """The reply at temperature 0 to each request."""

        def reply(request: Request) -> Reply:
            if not isinstance(request, ChatRequest):
                own = {} if request.special_tokens else {"add_special_tokens": False}
                return self.endpoint.complete(request.text, max_tokens, True, temperature=0, **own)
            more = request.template_arguments
            extra = {"chat_template_kwargs": dict(more)} if more else {}
            return self.endpoint.chat(request.messages, max_tokens, True, temperature=0, **extra)

        with ThreadPoolExecutor(self.at_once) as threads:
            return list(threads.map(reply, requests))
