"""Facts about model families: what reads rows otherwise than each alone is told or worked round."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import get_peft_model
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BloomConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    GPT2Config,
    MambaConfig,
    ModernBertDecoderConfig,
    PreTrainedModel,
    Qwen3MoeConfig,
    RwkvConfig,
    XLNetConfig,
)

from tests.train import tiny
from trimtab import AlignmentLossConstraint, DialObjective, SafetyAwareSFTTrainer, UserError
from trimtab.config.data_source import Lengths
from trimtab.data.rows import Message
from trimtab.measure.generation import only_ends_of, sampled_answers
from trimtab.measure.reading import heeds_padding
from trimtab.measure.token_loss import TokenLoss, all_weights, low_rank_subspace
from trimtab.models import load_model
from trimtab.train.objectives.base import Objective

VOCABULARY = 3 + len(tiny.WORDS)
BERT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "initializer_range": 0.3,
}
CONFIGS = {
    "modernbert-decoder": ModernBertDecoderConfig(vocab_size=VOCABULARY, **BERT, pad_token_id=0),
    "bert-decoder": BertConfig(vocab_size=VOCABULARY, **BERT, is_decoder=True),
    "bert": BertConfig(vocab_size=VOCABULARY, **BERT),
    "xlnet": XLNetConfig(vocab_size=VOCABULARY, d_model=32, n_layer=1, n_head=4, d_inner=48),
    "bloom": BloomConfig(
        vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4, initializer_range=0.3
    ),
    "gpt2": GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=32,
        n_layer=2,
        n_head=4,
        initializer_range=0.3,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    ),
    "mamba": MambaConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, initializer_range=0.3
    ),
    "rwkv": RwkvConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, attention_hidden_size=32
    ),
    "qwen3-moe": Qwen3MoeConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        moe_intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_experts=4,
        num_experts_per_tok=2,
        initializer_range=0.3,
        pad_token_id=0,
    ),
}


def model_of(family: str) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(deepcopy(CONFIGS[family]))
        for weight in model.parameters():
            weight.data += 0.1 * torch.randn_like(weight)
    return model.eval()


def trainer_of(
    family: str, folder: Path, objective: Objective | None = None, lora: bool = False, **more: Any
) -> SafetyAwareSFTTrainer:
    return tiny.trainer_of(objective, folder, lora, model=model_of(family), **more)


@pytest.mark.parametrize("family", ["modernbert-decoder", "bert-decoder"])
@pytest.mark.parametrize("objective", [None, AlignmentLossConstraint(1.0)])
def test_a_head_that_trls_loss_does_not_know_is_refused(
    family: str, objective: Objective | None, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="TRL's loss is not the model's own"):
        trainer_of(family, tmp_path, objective)


@pytest.mark.parametrize(
    "more", [{"packing": True, "max_length": 32}, {"padding_free": True, "max_length": None}]
)
@pytest.mark.parametrize(
    ("family", "is_apart"), [("bloom", False), ("mamba", False), ("gpt2", True)]
)
def test_sequences_that_would_see_each_other_are_not_packed(
    family: str, is_apart: bool, more: dict[str, Any], tmp_path: Path
) -> None:
    trainer_of(family, tmp_path)
    unpadded = {**more, "length_bucketing": False}
    if is_apart:
        trainer_of(family, tmp_path, **unpadded)
    else:
        with pytest.raises(UserError, match=r"see each other\. Set packing=False"):
            trainer_of(family, tmp_path, **unpadded)


@pytest.mark.parametrize(("family", "heeds"), [("rwkv", False), ("gpt2", True), ("bloom", True)])
def test_an_answer_is_the_same_whatever_is_asked_beside_it(
    family: str, heeds: bool, tmp_path: Path
) -> None:
    _, tokenizer = tiny.tiny_llama(tmp_path / "model")
    model = model_of(family)
    with only_ends_of(model, tokenizer):
        assert heeds_padding(model, 0) == heeds
    prompts = [(Message("user", " ".join(tiny.WORDS[n : 2 * n + 1])),) for n in (1, 4, 9)]

    def answers(batch_size: int) -> list[str]:
        lengths = Lengths(16, 8)
        return sampled_answers(model, tokenizer, prompts, lengths, batch_size, greedy=True)

    assert answers(3) == answers(1)


def test_an_encoder_is_no_model_to_train(tmp_path: Path) -> None:
    _, tokenizer = tiny.tiny_llama(tmp_path / "model")
    for family in ("bert", "bert-decoder", "xlnet"):
        model_of(family).save_pretrained(tmp_path / family)
        tokenizer.save_pretrained(tmp_path / family)
    with pytest.raises(UserError, match=r"is an encoder \(bert\)"):
        load_model(str(tmp_path / "bert"))
    with pytest.raises(UserError, match=r"is an encoder \(xlnet\)"):
        load_model(str(tmp_path / "xlnet"))
    load_model(str(tmp_path / "bert-decoder"))


@pytest.mark.parametrize("lora", [False, True])
def test_a_mixture_of_experts_answers_once_it_is_trained(lora: bool, tmp_path: Path) -> None:
    trainer = trainer_of("qwen3-moe", tmp_path, AlignmentLossConstraint(0.3), lora, max_steps=1)
    trainer.train()
    model = trainer.model.get_base_model() if lora else trainer.model
    assert model.config.output_router_logits is False
    for routes in (False, True):
        model.config.output_router_logits = routes
        prompts = [(Message("user", word),) for word in tiny.WORDS[:3]]
        answers = sampled_answers(
            trainer.model, trainer.processing_class, prompts, Lengths(8, 4), greedy=True
        )
        assert len(answers) == 3
        assert model.config.output_router_logits is routes


def test_an_adapter_of_fused_experts_is_merged_and_makes_no_dial(tmp_path: Path) -> None:
    base = tmp_path / "base"
    model_of("qwen3-moe").save_pretrained(base)
    tiny.tiny_llama(tmp_path / "model")[1].save_pretrained(base)
    adapted: Any = get_peft_model(load_model(str(base))[0], tiny.lora_config()).eval()
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(std=0.1)
    ids = torch.tensor([[4, 5, 6, 7]])
    with torch.no_grad():
        expected = adapted(input_ids=ids).logits
    adapted.save_pretrained(tmp_path / "adapter")
    merged, _ = load_model(str(tmp_path / "adapter"))
    with torch.no_grad():
        torch.testing.assert_close(merged(input_ids=ids).logits, expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(UserError, match="adapters of fused experts do not"):
        trainer_of("qwen3-moe", tmp_path, DialObjective(), lora=True)


def test_weights_that_text_does_not_reach_have_no_slope() -> None:
    text = {
        "vocab_size": 32,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
    }
    vision = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    tokens = {"image_token_index": 31, "boi_token_index": 30, "eoi_token_index": 29}
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4, **tokens)
    model = Gemma3ForConditionalGeneration(config)
    rows = Dataset.from_list([{"input_ids": [4, 5, 6, 7], "labels": [-100, -100, 6, 7]}] * 4)
    with all_weights(model) as (inner, weights):
        loss = TokenLoss.over(inner, weights, rows, 64)
        gradient = loss.gradient()
        bent = loss.curvature_along(gradient)

    def norm(parts: list[Tensor], reached: bool) -> float:
        names = [name for name, weight in inner.named_parameters() if weight.requires_grad]
        return max(
            float(part.abs().max())
            for name, part in zip(names, parts, strict=True)
            if ("vision" not in name and "multi_modal" not in name) == reached
        )

    for parts in (gradient, bent):
        assert norm(parts, reached=True) > 0
        assert norm(parts, reached=False) == 0


def test_layers_that_peft_does_not_adapt_are_told_in_one_line() -> None:
    told = pytest.raises(UserError, match=r"no landscape .* Give --landscape full, or none")
    with told, low_rank_subspace(model_of("mamba"), 2):
        pass
