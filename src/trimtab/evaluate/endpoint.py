"""A server that speaks OpenAI's protocol: vLLM, Ollama, llama.cpp, or a provider's."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from trimtab.errors import UserError, reason_of
from trimtab.evaluate.judges.base import Reply, Token

KEY_VARIABLE = "TRIMTAB_API_KEY"
_LIKELIEST = 20
_PASSING = (408, 409, 425, 429, 500, 502, 503, 504)


@dataclass(frozen=True)
class Endpoint:
    """A model on a server, asked over HTTP.

    The key, where the server wants one, is the value of the environment variable `key_variable`.
    What may pass (a busy server, a broken connection) is tried again `retries` times, after
    `wait`, 2·`wait`, 4·`wait` … seconds.
    """

    url: str
    """Up to and with the version, as in http://localhost:8000/v1."""
    model: str
    key_variable: str = KEY_VARIABLE
    retries: int = 3
    wait: float = 1.0
    """Seconds."""
    timeout: float = 300.0
    """Seconds until a connection that says nothing counts as broken."""

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise UserError(f"{self.url!r} is no URL. Give one as http://localhost:8000/v1.")

    def chat(
        self,
        messages: Sequence[tuple[str, str]],
        max_tokens: int,
        probabilities: bool = False,
        **more: Any,
    ) -> Reply:
        """What the model answers to messages of role and content.

        Raises:
            UserError: the server cannot be reached, refuses, or gives no chat completion.
        """
        turns = [{"role": role, "content": content} for role, content in messages]
        record = {"messages": turns, "max_tokens": max_tokens, **more}
        if probabilities:
            record |= {"logprobs": True, "top_logprobs": _LIKELIEST}
        answered = self._choice("chat/completions", record)
        try:
            content = (answered.get("logprobs") or {}).get("content") or []
            tokens = tuple(
                Token(token["token"], {top["token"]: math.exp(top["logprob"]) for top in tops})
                for token in content
                if (tops := token.get("top_logprobs"))
            )
            return Reply(answered["message"]["content"] or "", tokens)
        except (LookupError, TypeError, AttributeError):
            raise self._no_completion() from None

    def complete(
        self, text: str, max_tokens: int, probabilities: bool = False, **more: Any
    ) -> Reply:
        """How the model goes on from a text. Raises UserError as `chat` does."""
        record = {"prompt": text, "max_tokens": max_tokens, **more}
        if probabilities:
            record |= {"logprobs": _LIKELIEST}
        answered = self._choice("completions", record)
        try:
            logprobs = answered.get("logprobs") or {}
            tops = logprobs.get("top_logprobs") or []
            tokens = tuple(
                Token(token, {word: math.exp(value) for word, value in likeliest.items()})
                for token, likeliest in zip(logprobs.get("tokens") or [], tops, strict=False)
                if likeliest
            )
            return Reply(answered["text"], tokens)
        except (LookupError, TypeError, AttributeError):
            raise self._no_completion() from None

    def _choice(self, method: str, record: Mapping[str, Any]) -> dict[str, Any]:
        answered = self._post(method, {"model": self.model, **record})
        try:
            choice: dict[str, Any] = answered["choices"][0]
        except (LookupError, TypeError):
            raise self._no_completion() from None
        return choice

    def _no_completion(self) -> UserError:
        return UserError(
            f"{self.url} answers, but not with a completion. Give the URL of a server that speaks "
            "OpenAI's protocol, up to /v1."
        )

    def _post(self, method: str, record: Mapping[str, Any]) -> Any:
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(self.key_variable):
            headers["Authorization"] = f"Bearer {key}"
        place = f"{self.url.rstrip('/')}/{method}"
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(self.wait * 2 ** (attempt - 1))
            try:
                request = Request(place, json.dumps(record).encode(), headers)
                with urlopen(request, timeout=self.timeout) as answered:
                    return json.load(answered)
            except HTTPError as error:
                server_message = error.read(300).decode(errors="replace").strip()
                reason = f"{error.code} {error.reason}: {server_message}"
                if error.code not in _PASSING:
                    raise UserError(
                        f"{place} refuses ({reason}). {self._mend(error.code)}"
                    ) from None
            except json.JSONDecodeError:
                raise self._no_completion() from None
            except (URLError, OSError, HTTPException) as error:
                reason = reason_of(error)
        raise UserError(
            f"{place} cannot be reached ({reason}). Start the server, or check the URL; what is "
            "finished is kept."
        )

    def _mend(self, code: int) -> str:
        if code in (401, 403):
            return f"Put the server's key into ${self.key_variable}."
        if code == 404:
            return f"Check the URL, up to /v1, and that the server has the model {self.model!r}."
        return "Check that the server and its model take such requests."
