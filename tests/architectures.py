"""Tiny models of several architectures with random weights, a function of their seed."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
)


def llama(seed: int = 0, **settings: Any) -> LlamaForCausalLM:
    """With a bias on every linear layer."""
    torch.manual_seed(seed)
    defaults = {
        "vocab_size": 24,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "attention_bias": True,
        "mlp_bias": True,
        "initializer_range": 0.1,
    }
    return LlamaForCausalLM(LlamaConfig(**(defaults | settings)))


def mixtral(seed: int = 0, **settings: Any) -> MixtralForCausalLM:
    """A mixture of three experts."""
    torch.manual_seed(seed)
    defaults = {
        "vocab_size": 24,
        "hidden_size": 16,
        "intermediate_size": 20,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "num_local_experts": 3,
        "initializer_range": 0.1,
    }
    return MixtralForCausalLM(MixtralConfig(**(defaults | settings)))


def gpt2(seed: int = 0) -> GPT2LMHeadModel:
    """With weights stored as (in, out)."""
    torch.manual_seed(seed)
    sizes = {"vocab_size": 24, "n_embd": 16, "n_layer": 1, "n_head": 2}
    return GPT2LMHeadModel(GPT2Config(**sizes, initializer_range=0.1))
