"""Published methods, one to a file: what a user would try instead of the two cases."""

from __future__ import annotations

from trimtab.config.experiment import MethodName
from trimtab.train.baselines.case_one_by_share import CaseOneByShare
from trimtab.train.baselines.constrained_sft import ConstrainedSFT
from trimtab.train.baselines.data_selection import DataSelection, RandomSubset
from trimtab.train.baselines.early_stopping import EarlyStopping
from trimtab.train.baselines.ewc import EWC
from trimtab.train.baselines.gradient_surgery import GradientSurgery
from trimtab.train.baselines.interpolation import Interpolation
from trimtab.train.baselines.kl_anchor import KLAnchor
from trimtab.train.baselines.l2_sp import L2SP
from trimtab.train.baselines.lazy_safety_alignment import LazySafetyAlignment
from trimtab.train.baselines.mixing import Mixing
from trimtab.train.baselines.post_hoc import PostHocMethod
from trimtab.train.baselines.resta import RESTA
from trimtab.train.baselines.safe_lora import SafeLoRA
from trimtab.train.objectives.base import Objective


def method_of(name: MethodName, knob: float) -> Objective | PostHocMethod:
    """The method of that name with its knob set. Raises UserError."""
    match name:
        case "case-one-by-share":
            return CaseOneByShare(knob)
        case "mixing":
            return Mixing(knob)
        case "l2-sp":
            return L2SP(knob)
        case "ewc":
            return EWC(knob)
        case "lazy-safety-alignment":
            return LazySafetyAlignment(knob)
        case "safegrad":
            return GradientSurgery(knob)
        case "pcgrad":
            return GradientSurgery(knob, towards="data")
        case "constrained-sft":
            return ConstrainedSFT(knob)
        case "kl-anchor":
            return KLAnchor(knob)
        case "kl-anchor-on-task":
            return KLAnchor(knob, on="task")
        case "early-stopping":
            return EarlyStopping(knob)
        case "seal":
            return DataSelection(knob)
        case "random-subset":
            return RandomSubset(knob)
        case "wise-ft":
            return Interpolation(knob)
        case "resta":
            return RESTA(knob)
        case "safe-lora":
            return SafeLoRA(knob)
