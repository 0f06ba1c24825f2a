"""The model and the vectors it, or another, makes of rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimtab.audit.datasets import Audited, text_of
from trimtab.audit.stage_cache import StageCache
from trimtab.config.audit_settings import MODEL, WORDS, AuditSettings
from trimtab.config.loading import Loading
from trimtab.data.encoding import encode
from trimtab.data.rows import Row
from trimtab.measure.hidden_states import Reading, States, read_through
from trimtab.models import limits_of, load_model, to_device
from trimtab.watching import Watcher

_DIMENSIONS = 100


class FeatureExtractor:
    """The aligned model, read with once per data set, and another model where one is named."""

    def __init__(
        self, name: str, settings: AuditSettings, stages: StageCache, watcher: Watcher
    ) -> None:
        self.name = name
        self.settings = settings
        self.stages = stages
        self.watcher = watcher
        watcher.doing(f"loading {name}")
        self.model, self.tokenizer = _on_device(name, settings.load)
        self._embedder: tuple[PreTrainedModel, PreTrainedTokenizerBase] | None = None

    def reading(self, data: Audited) -> Reading:
        """The aligned model over the chosen rows."""
        return self._read("reading", data, self.model, self.tokenizer)

    def features(self, first: Audited, second: Audited) -> tuple[States, States]:
        """What a classifier sees of the chosen rows of two data sets, shapes (rows, k)."""
        if self.settings.embedding == WORDS:
            return word_features(first.chosen, second.chosen)
        return self._states(first).responses, self._states(second).responses

    def prompt_states(self, data: Audited) -> States | None:
        """Hidden states of the chosen rows' prompts; None where overlap is by words."""
        if self.settings.embedding in (None, WORDS):
            return None
        return self._states(data).prompts

    @property
    def similarity_by(self) -> str:
        """What similarity looks at, in words."""
        match self.settings.embedding:
            case None | "model":
                return f"hidden states of {self.name}"
            case "words":
                return "TF-IDF of words"
            case model_name:
                return f"hidden states of {model_name}"

    @property
    def overlap_by(self) -> str:
        """What overlap looks at, in words."""
        return "TF-IDF of words" if self.settings.embedding is None else self.similarity_by

    def encoded(self, rows: Sequence[Row], label: str) -> Any:
        """Rows as token ids. Raises UserError where one is longer than the model can read."""
        return self._encoded(rows, label, self.model, self.tokenizer)

    def _states(self, data: Audited) -> Reading:
        if self.settings.embedding in (None, MODEL):
            return self.reading(data)
        if self._embedder is None:
            assert self.settings.embedding is not None
            self._embedder = _on_device(self.settings.embedding, Loading())
        return self._read("embedding", data, *self._embedder)

    def _read(
        self,
        purpose: str,
        data: Audited,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
    ) -> Reading:
        def fresh_reading() -> Reading:
            rows = self._encoded(data.chosen, data.label, model, tokenizer)
            self.watcher.doing(f"reading {data.label}", len(rows))
            return read_through(model, rows, self.settings.tokens_per_batch, self.watcher.stepped)

        return self.stages.reading(f"{purpose} {data.label}", fresh_reading)

    def _encoded(
        self,
        rows: Sequence[Row],
        label: str,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
    ) -> Any:
        return encode(
            rows, tokenizer, self.settings.lengths, limits_of(model), self.watcher.warned, label
        )


def word_features(first: Sequence[Row], second: Sequence[Row]) -> tuple[States, States]:
    """TF-IDF of words and word pairs of prompt and response, on its first hundred components."""
    texts = [f"{text_of(row)}\n{row.response}" for row in (*first, *second)]
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+")
    vectors = words.fit_transform(texts)
    size = min(_DIMENSIONS, min(vectors.shape) - 1)
    reduced = TruncatedSVD(size, random_state=0).fit_transform(vectors).astype(np.float32)
    return reduced[: len(first)], reduced[len(first) :]


def _on_device(name: str, load: Loading) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    model, tokenizer = load_model(name, load)
    return to_device(model), tokenizer
