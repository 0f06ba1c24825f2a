"""A tiny model, rows for it, and one training run of a few steps."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import (
    DataCollatorForSeq2Seq,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from trl import SFTConfig, SFTTrainer

from trimtab import (
    AlignmentLossConstraint,
    AlignmentParameterConstraint,
    Budget,
    DialObjective,
    Objective,
    SafetyAwareSFTConfig,
    SafetyAwareSFTTrainer,
)
from trimtab.models import load_model, save_tiny_llama
from trimtab.train.baselines.adaptive_kl import AdaptiveKL
from trimtab.train.baselines.case_one_by_share import CaseOneByShare
from trimtab.train.baselines.constrained_sft import ConstrainedSFT
from trimtab.train.baselines.data_selection import DataSelection, RandomSubset
from trimtab.train.baselines.early_stopping import EarlyStopping
from trimtab.train.baselines.ewc import EWC
from trimtab.train.baselines.gradient_surgery import GradientSurgery
from trimtab.train.baselines.kl_anchor import KLAnchor
from trimtab.train.baselines.l2_sp import L2SP
from trimtab.train.baselines.lazy_safety_alignment import LazySafetyAlignment
from trimtab.train.baselines.mixing import Mixing
from trimtab.train.baselines.orthogonal_projection import OrthogonalProjection
from trimtab.train.baselines.orthogonal_subspace import OrthogonalSubspace
from trimtab.train.baselines.pact import PACT
from trimtab.train.baselines.safety_preserving import SafetyPreserving

WORDS = [f"w{number}" for number in range(30)]

CONSTRAINTS: dict[str, Objective] = {
    "loss-penalty": AlignmentLossConstraint(penalty=0.7),
    "kl-penalty": AlignmentLossConstraint(penalty=0.7, target="kl"),
    "parameter-penalty": AlignmentParameterConstraint(penalty=0.3),
    "parameter-radius": AlignmentParameterConstraint(radius=0.05),
}


def another_llama(seed: int = 1) -> LlamaForCausalLM:
    """A model with the vocabulary of `tiny_llama`, as one from before it was aligned."""
    config = LlamaConfig(
        vocab_size=len(WORDS) + 3,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        initializer_range=0.1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()


BASELINES: dict[str, Objective] = {
    "case-one-by-share": CaseOneByShare(1.0),
    "mixing": Mixing(1.0),
    "l2-sp": L2SP(1.0),
    "ewc": EWC(1.0),
    "lazy-safety-alignment": LazySafetyAlignment(1.0, safety_steps=1, task_steps=2),
    "safegrad": GradientSurgery(1.0),
    "pcgrad": GradientSurgery(1.0, towards="data"),
    "constrained-sft": ConstrainedSFT(0.3),
    "kl-anchor": KLAnchor(1.0),
    "kl-anchor-on-task": KLAnchor(1.0, on="task"),
    "early-stopping": EarlyStopping(0.0),
    "seal": DataSelection(0.5),
    "random-subset": RandomSubset(0.5),
    "osf": OrthogonalSubspace(0.5),
    "orthogonal-projection": OrthogonalProjection(1.0, references=2, every=3),
    "spf": SafetyPreserving(2, rows=4),
    "adaptive-kl": AdaptiveKL(0.9),
    "pact": PACT(1.0, unaligned=another_llama, tokens=10),
}

WITHOUT_ADAPTER = ("osf",)
"""Objectives that no adapter goes with."""

PADDED = ("adaptive-kl", "constrained-sft", "ewc", "orthogonal-projection", "pact", "seal", "spf")
"""Objectives that tell the rows of a batch apart."""

OBJECTIVES: dict[str, Objective] = {
    **CONSTRAINTS,
    "dial": DialObjective(),
    "dial-kl": DialObjective(target="kl"),
    "budget": Budget(budget=0.05),
    **BASELINES,
}


def tiny_llama(folder: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    if not folder.exists():
        save_tiny_llama(WORDS, folder, seed=0)
    return load_model(str(folder))


def rows(count: int, seed: int) -> Dataset:
    """Rows whose responses differ in length, so that means over rows and over tokens differ."""
    generator = torch.Generator().manual_seed(seed)

    def words(length: int) -> list[int]:
        return torch.randint(3, 3 + len(WORDS), (length,), generator=generator).tolist()

    records = []
    for number in range(count):
        prompt, response = words(2 + number % 3), words(1 + (number * seed) % 5)
        records.append({"input_ids": prompt + response, "labels": [-100] * len(prompt) + response})
    return Dataset.from_list(records)


def config(folder: Path, **settings: Any) -> SafetyAwareSFTConfig:
    return SafetyAwareSFTConfig(
        **{
            "output_dir": str(folder),
            "use_cpu": True,
            "per_device_train_batch_size": 8,
            "max_steps": 4,
            "learning_rate": 1e-2,
            "max_grad_norm": 0.0,
            "lr_scheduler_type": "constant",
            "gradient_checkpointing": False,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "bf16": False,
            "seed": 3,
            **settings,
        }
    )


def trained(
    objective: Objective | None,
    arguments: SFTConfig,
    folder: Path,
    lora: bool = False,
    resume: bool = False,
    task: Dataset | None = None,
) -> SafetyAwareSFTTrainer:
    model, tokenizer = tiny_llama(folder / "model")
    trainer = SafetyAwareSFTTrainer(
        model,
        args=arguments,
        train_dataset=rows(64, seed=2) if task is None else task,
        eval_dataset=rows(16, seed=9) if arguments.eval_strategy != "no" else None,
        safety_dataset=rows(40, seed=5),
        objective=objective,
        processing_class=tokenizer,
        peft_config=lora_config() if lora else None,
    )
    trainer.train(resume_from_checkpoint=resume or None)
    return trainer


def trained_plainly(arguments: SFTConfig, folder: Path, lora: bool = False) -> SFTTrainer:
    model, tokenizer = tiny_llama(folder / "model")
    trainer = SFTTrainer(
        model,
        args=arguments,
        train_dataset=rows(64, seed=2),
        processing_class=tokenizer,
        peft_config=lora_config() if lora else None,
    )
    trainer.train()
    return trainer


def trainer_of(
    objective: Objective | None,
    folder: Path,
    lora: bool = False,
    task: Dataset | None = None,
    safety: Dataset | None = None,
    reads_safety: bool = True,
    optimizer: torch.optim.Optimizer | None = None,
    model: PreTrainedModel | None = None,
    collator: dict[str, Any] | None = None,
    **settings: Any,
) -> SafetyAwareSFTTrainer:
    """A trainer of a tiny Llama with 64 rows of a task and 40 of safety data, or of what is given.

    With a `collator` its rows are put together by a `Collator` of these arguments.
    """
    llama, tokenizer = tiny_llama(folder / "model")
    return SafetyAwareSFTTrainer(
        llama if model is None else model,
        data_collator=None if collator is None else Collator(tokenizer, **collator),
        args=config(folder, **settings),
        objective=objective,
        train_dataset=rows(64, seed=2) if task is None else task,
        eval_dataset=rows(16, seed=9) if "eval_strategy" in settings else None,
        safety_dataset=(safety or rows(40, seed=5)) if reads_safety else None,
        processing_class=tokenizer,
        optimizers=(optimizer, None),
        peft_config=lora_config() if lora else None,
    )


class Collator:
    """Rows padded on a side, with positions that matter, or with what is asked for besides.

    Positions are doubled, so that a model that counts itself gives another loss.
    """

    def __init__(
        self, tokenizer: Any, side: str = "right", without: tuple[str, ...] = (), **given: Any
    ) -> None:
        tokenizer.padding_side = side
        self.collate, self.without, self.given = DataCollatorForSeq2Seq(tokenizer), without, given

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        batch = dict(self.collate(rows))
        batch["position_ids"] = 2 * (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
        return {
            name: value for name, value in (batch | self.given).items() if name not in self.without
        }


def lora_config() -> LoraConfig:
    return LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")


def full_and_lora(*without: str) -> pytest.MarkDecorator:
    """Every objective on all weights and, where one goes with it, on an adapter."""
    pairs = [
        (name, lora)
        for name in OBJECTIVES
        for lora in (False, True)
        if name not in without and not (lora and name in WITHOUT_ADAPTER)
    ]
    ids = [f"{name}-{'lora' if lora else 'full'}" for name, lora in pairs]
    return pytest.mark.parametrize(("name", "lora"), pairs, ids=ids)


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor], by: float) -> None:
    assert first.keys() == second.keys()
    for name, weight in first.items():
        torch.testing.assert_close(weight, second[name], atol=by, rtol=by, msg=name)


def weights(trainer: SFTTrainer) -> dict[str, torch.Tensor]:
    """What was trained, by name; of a dial both of its endpoints, until it is settled."""
    objective = getattr(trainer, "objective", None)
    own = objective.optimized() if objective is not None else None
    model = trainer.model if own is None or not list(own.parameters()) else own
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def train_all() -> None:
    out, batch_size = Path(sys.argv[1]), int(sys.argv[2])
    settings = {"optim": "sgd", "learning_rate": 0.5, "max_steps": 2}
    arguments = config(out / "run", per_device_train_batch_size=batch_size, **settings)
    for lora in (False, True):
        for name, objective in OBJECTIVES.items():
            if lora and name in WITHOUT_ADAPTER:
                continue
            trainer = trained(objective, arguments, out, lora)
            if trainer.accelerator.is_main_process:
                torch.save(weights(trainer), out / f"{name}-{lora}.pt")
