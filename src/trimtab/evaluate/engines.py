"""Who answers prompts: Transformers here, vLLM where it is installed, or a server elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import Any, Protocol

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimtab.config.data_source import Lengths
from trimtab.config.loading import Loading
from trimtab.data.encoding import ends_of_answers
from trimtab.errors import UserError
from trimtab.evaluate.endpoint import Endpoint
from trimtab.evaluate.prompt_sets import messages_of
from trimtab.measure.generation import asked_ids, sampled_answers
from trimtab.models import load_model, load_tokenizer, to_device, weights_sha256
from trimtab.results.checksums import digest_of
from trimtab.results.generations import AskedPrompt, Decoding

Finished = Callable[[int, str], None]


class AnswerEngine(Protocol):
    """A model that answers."""

    @property
    def model(self) -> str:
        """Which model it is."""

    @property
    def template(self) -> str:
        """A hash of the template that puts prompts into words, or the URL of who does."""

    @property
    def made_by(self) -> str:
        """What computes the answers, and a hash of the weights where they lie here."""

    def answer(
        self, prompts: Sequence[AskedPrompt], decoding: Decoding, first: int, finished: Finished
    ) -> None:
        """Answer the prompts from place `first` on; `finished` hears place and answer, in order.

        What is answered at a place does not depend on where `first` was, so long as that is a
        multiple of the batch size. Raises UserError where the model cannot answer.
        """


class TransformersEngine:
    """A model in Transformers, on the GPU where there is one; nothing is loaded before it is asked.

    Raises UserError, when asked: no such model, or prompts and answers longer than it reads.
    """

    def __init__(self, model: str, load: Loading = Loading()) -> None:  # noqa: B008  # frozen
        self.model = model
        self._load = load

    @cached_property
    def loaded(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The model and its tokenizer."""
        model, tokenizer = load_model(self.model, self._load)
        return to_device(model), tokenizer

    @cached_property
    def template(self) -> str:
        """A hash of its chat template."""
        return template_hash(load_tokenizer(self.model))

    @cached_property
    def made_by(self) -> str:
        """Transformers, what weights are held in, and a hash of them: a folder's may change."""
        held_in = self._load.in_words
        return _with_weights(f"transformers {held_in}".strip(), self.model)

    def answer(
        self, prompts: Sequence[AskedPrompt], decoding: Decoding, first: int, finished: Finished
    ) -> None:
        """Answer in batches, whose draw is a function of the seed and of where they start."""
        model, tokenizer = self.loaded
        sampled_answers(
            model,
            tokenizer,
            [messages_of(prompt) for prompt in prompts],
            Lengths(decoding.max_prompt, decoding.max_tokens),
            decoding.batch_size,
            decoding.seed,
            first,
            lambda place, answer, _: finished(place, answer),
            greedy=decoding.temperature == 0,
            temperature=decoding.temperature,
            top_p=decoding.top_p,
        )


class LoadedEngine(TransformersEngine):
    """A model that is in memory already, by the name that its answers are kept under."""

    def __init__(
        self, name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        super().__init__(name)
        self.loaded = model, tokenizer
        self.made_by = "transformers"

    @cached_property
    def template(self) -> str:
        """A hash of its chat template."""
        return template_hash(self.loaded[1])


class DividedEngine(LoadedEngine):
    """A model that several processes have in memory, of which each answers a batch at a time.

    Args:
        answers_from: the answers to as many batches as there are processes, from a place on; of
            each batch those that one process alone would give.
    """

    def __init__(
        self,
        name: str,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        answers_from: Callable[[Sequence[AskedPrompt], Decoding, int], list[str]],
    ) -> None:
        super().__init__(name, model, tokenizer)
        self._answers_from = answers_from

    def answer(
        self, prompts: Sequence[AskedPrompt], decoding: Decoding, first: int, finished: Finished
    ) -> None:
        place = first
        while place < len(prompts):
            for answer in self._answers_from(prompts, decoding, place):
                finished(place, answer)
                place += 1


class VllmEngine:
    """A model in vLLM, given the same token ids; a prompt's draw is a function of seed and place.

    Raises UserError: vLLM is not installed.
    """

    def __init__(self, model: str) -> None:
        try:
            self._vllm: Any = import_module("vllm")
        except ImportError:
            raise UserError(
                "vLLM is not installed. pip install vllm, or leave out --engine vllm."
            ) from None
        self.model = model

    @cached_property
    def _loaded(self) -> tuple[Any, PreTrainedTokenizerBase]:
        return self._vllm.LLM(model=self.model), load_tokenizer(self.model)

    @cached_property
    def template(self) -> str:
        """A hash of its chat template."""
        return template_hash(load_tokenizer(self.model))

    @cached_property
    def made_by(self) -> str:
        """VLLM, with a hash of the weights."""
        return _with_weights("vllm", self.model)

    def answer(
        self, prompts: Sequence[AskedPrompt], decoding: Decoding, first: int, finished: Finished
    ) -> None:
        """Answer batch by batch, so that what is finished is kept."""
        model, tokenizer = self._loaded
        lengths = Lengths(decoding.max_prompt, decoding.max_tokens)
        ends = sorted(ends_of_answers(tokenizer))
        for start in range(first, len(prompts), decoding.batch_size):
            batch = prompts[start : start + decoding.batch_size]
            ids = [asked_ids(messages_of(prompt), tokenizer, lengths) for prompt in batch]
            draws = [
                self._vllm.SamplingParams(
                    temperature=decoding.temperature,
                    top_p=decoding.top_p,
                    max_tokens=decoding.max_tokens,
                    stop_token_ids=ends,
                    seed=_draw(decoding, start + place),
                )
                for place in range(len(batch))
            ]
            inputs = [{"prompt_token_ids": row} for row in ids]
            outputs = model.generate(inputs, draws, use_tqdm=False)
            for place, output in enumerate(outputs, start=start):
                finished(place, output.outputs[0].text.strip())


@dataclass(frozen=True)
class EndpointEngine:
    """A model on a server, which cuts no prompt and uses its own chat template."""

    endpoint: Endpoint
    made_by = "server"

    @property
    def model(self) -> str:
        """Which model the server is asked for."""
        return self.endpoint.model

    @property
    def template(self) -> str:
        """The server's URL."""
        return self.endpoint.url

    def answer(
        self, prompts: Sequence[AskedPrompt], decoding: Decoding, first: int, finished: Finished
    ) -> None:
        """Ask for a batch at once. Raises UserError as the endpoint does."""

        def reply(place: int) -> str:
            return self.endpoint.chat(
                prompts[place].messages,
                decoding.max_tokens,
                temperature=decoding.temperature,
                top_p=decoding.top_p,
                seed=_draw(decoding, place),
            ).text.strip()

        with ThreadPoolExecutor(decoding.batch_size) as threads:
            for start in range(first, len(prompts), decoding.batch_size):
                places = range(start, min(start + decoding.batch_size, len(prompts)))
                for place, answer in zip(places, threads.map(reply, places), strict=True):
                    finished(place, answer)


def template_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """The first 16 hexadecimal digits of SHA-256 of a chat template, or of no template."""
    return digest_of(str(tokenizer.chat_template or ""))


def _with_weights(engine: str, model: str) -> str:
    return f"{engine} {weights_sha256(model)[:16]}".strip()


def _draw(decoding: Decoding, place: int) -> int:
    return decoding.seed * 2**20 + place
