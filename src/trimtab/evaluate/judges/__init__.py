"""Every judge by its name: a new one is a file here and a line in `MODEL_JUDGES`."""

from __future__ import annotations

from trimtab.evaluate.judges.base import ModelJudge
from trimtab.evaluate.judges.granite_guardian import GraniteGuardian
from trimtab.evaluate.judges.harmbench import HarmBenchClassifier
from trimtab.evaluate.judges.llama_guard import LlamaGuard3
from trimtab.evaluate.judges.policy import PolicyJudge
from trimtab.evaluate.judges.qwen3guard import Qwen3Guard
from trimtab.evaluate.judges.shieldgemma import ShieldGemma
from trimtab.evaluate.judges.strongreject import StrongRejectRubric
from trimtab.evaluate.judges.wildguard import WildGuard

MODEL_JUDGES: tuple[type[ModelJudge], ...] = (
    Qwen3Guard,
    GraniteGuardian,
    LlamaGuard3,
    WildGuard,
    HarmBenchClassifier,
    StrongRejectRubric,
    ShieldGemma,
    PolicyJudge,
)

DEFAULT_JUDGES = (Qwen3Guard.name, GraniteGuardian.name)
"""Two judges of different makers, both free to use and to download."""
