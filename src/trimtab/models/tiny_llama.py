"""A model that is small enough for the built-in worlds, made from their words."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast


def save_tiny_llama(texts: Iterable[str], folder: Path, seed: int) -> None:
    """A randomly initialised Llama of about 200,000 parameters whose words are those of `texts`.

    Its tokenizer splits at white space, one id per word.
    """
    words = sorted({word for text in texts for word in text.split()})
    special = ["<pad>", "<eos>", "<unk>"]
    vocabulary = {word: number for number, word in enumerate([*special, *words])}
    splitter = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    splitter.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=splitter, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=96,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        initializer_range=0.1,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
