"""A tiny model with a chat template, and a server that answers with it over OpenAI's protocol."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any

from trimtab.evaluate.backends import LocalModel
from trimtab.evaluate.judges.base import ChatRequest, Reply
from trimtab.models import save_tiny_llama
from trimtab.results.generations import AskedPrompt, Kind

WORDS = ["i", "cannot", "help", "ask", "tell", "sure", "Yes", "No", "safe", "unsafe"]
TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}tell {% endif %}"
    "{{ message['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}tell {% endif %}"
)


def save_tiny_chat(folder: Path, seed: int = 0) -> Path:
    """A randomly initialised model that chats."""
    save_tiny_llama(WORDS, folder, seed)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


def asked_prompts(count: int, kind: Kind = "harmful") -> list[AskedPrompt]:
    """Prompts of rising length."""
    texts = [" ".join(["ask"] * (1 + n // 3) + [WORDS[n % 6]]) for n in range(count)]
    return [AskedPrompt((("user", text),), kind, "tiny") for text in texts]


@contextmanager
def served(
    answer: Callable[[dict[str, Any]], tuple[int, Any]],
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server's URL, and the requests it has heard: their record, path and headers.

    `answer` makes of a request's record a status and what is sent, text as it stands.
    """
    heard: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            record = json.loads(self.rfile.read(length))
            heard.append({**record, "path": self.path, "key": self.headers["Authorization"]})
            status, sent = answer(record)
            body = sent.encode() if isinstance(sent, str) else json.dumps(sent).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", heard
    finally:
        server.shutdown()
        server.server_close()


def completion(reply: Reply) -> dict[str, Any]:
    """A chat completion with its probabilities."""
    content = [
        {
            "token": token.text,
            "top_logprobs": [
                {"token": word, "logprob": math.log(max(p, 1e-30))}
                for word, p in token.likeliest.items()
            ],
        }
        for token in reply.tokens
    ]
    message = {"role": "assistant", "content": reply.text}
    return {"choices": [{"message": message, "logprobs": {"content": content}}]}


def chats_as(model: LocalModel) -> Callable[[dict[str, Any]], tuple[int, Any]]:
    """A server's answers by a model of this machine."""
    lock = Lock()

    def answer(record: dict[str, Any]) -> tuple[int, Any]:
        turns = tuple((turn["role"], turn["content"]) for turn in record["messages"])
        with lock:
            (reply,) = model.replies([ChatRequest(turns)], min(record["max_tokens"], 24))
        return 200, completion(reply)

    return answer
