"""Every way to make a model that trimtab knows, one entry each; no torch.

Names, titles, labels, panels, folders, grids and the class to train with come from here, so that
nobody asks what kind a method is. To add a published one, write its file in
`trimtab/train/baselines` and its entry in `PUBLISHED`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Literal

from trimtab.errors import UserError

Family = Literal[
    "Case I otherwise",
    "Methods that train on safety rows",
    "Methods on weights",
    "Methods on task rows, or on time",
]
"""Methods of a family share a panel of a figure."""

Stage = Literal["start", "training", "after training"]
"""Whether it is the model that all start from, is trained, or edits what plain fine-tuning made."""


@dataclass(frozen=True)
class Method:
    """A way to make a model, as everything but its own file knows it."""

    name: str
    """In an experiment's file, in results and in the names of folders."""
    title: str
    """As people call it."""
    family: Family | None
    """The panel that it shares; None for what stands in every panel."""
    home: str | None
    """Its class: the module in `trimtab.train`, and its name there. None trains as TRL does."""
    grid: tuple[float, ...] = ()
    """Five values of its hyperparameter, half a decade or so apart, from where it is nearly plain
    fine-tuning to where it nearly leaves the model as it was."""
    settings: dict[str, Any] = field(default_factory=dict, hash=False)
    """Further arguments of its class."""
    hyperparameter: str = "strength"
    """The argument of its class that a grid varies."""
    symbol: str | None = None
    """What stands before a value, as in λ = 0.3; the hyperparameter's name where not given."""
    short: str | None = None
    """What `brief` is, where not the title."""
    gist: str | None = None
    """What it does, in plain words, where its name does not say."""
    plain_at: float | None = None
    """The value at which it is plain fine-tuning."""
    tightest: Literal["largest", "smallest"] = "largest"
    """Which value of its hyperparameter holds the model most."""
    stage: Stage = "training"
    reads_safety: bool = True
    """Whether its training depends on the safety data."""
    needs_unaligned: bool = False
    """Whether it needs the model from before it was aligned."""
    trains_whole_weights: bool = False
    """Whether it takes no adapter."""
    takes_target: bool = False
    """Whether it heeds `train.safety_target`."""
    takes_seed: bool = False
    """Whether what it makes after training is drawn by a seed."""
    one_training: bool = False
    """Whether one training makes the models of all values."""
    keeps_each: bool = False
    """Of one training for all values: whether a model is kept for each, and not what makes them."""

    @property
    def is_post_hoc(self) -> bool:
        """Whether it changes a model that is trained, and trains nothing itself."""
        return self.stage == "after training"

    @property
    def brief(self) -> str:
        """Its title where room is scarce."""
        return self.short or self.title

    def label(self, value: float | None) -> str:
        """A value of the hyperparameter, in words.

        >>> METHODS["alignment-loss"].label(0.3), METHODS["alignment-loss-budget"].label(0.05)
        ('λ = 0.3', 'budget 0.05')
        >>> METHODS["l2-sp"].label(math.inf), METHODS["plain"].label(None)
        ('λ = ∞', '–')
        """
        if value is None:
            return NO_VALUE
        symbol = self.symbol or self.hyperparameter.replace("_", " ")
        return f"{symbol}{' = ' if len(symbol) == 1 else ' '}{number(value)}"

    def strength(self, value: float | None) -> float:
        """The value with the sign that makes it grow as the model is held more."""
        if value is None:
            return 0.0
        return value if self.tightest == "largest" else -value

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        # By name, so that it is the same object in another process, as "is" asks.
        return _known, (self.name,)


NO_VALUE = "–"
"""What `Method.label` tells of a model that has no hyperparameter."""


def number(value: float) -> str:
    """Four digits that matter, in plain decimals, for people.

    >>> [number(v) for v in (0.123456, 12.0, 0.00001234, 0.0, float("inf"))]
    ['0.1235', '12', '1.234e-05', '0', '∞']
    """
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return f"−{-value:.4g}" if value < 0 else f"{value:.4g}"


_SAFETY_ROWS: Family = "Methods that train on safety rows"
_WEIGHTS: Family = "Methods on weights"
_TASK_ROWS: Family = "Methods on task rows, or on time"
_DECADES = (0.03, 0.1, 0.3, 1.0, 3.0)
_LOWER_DECADES = (0.01, 0.03, 0.1, 0.3, 1.0)

_CASE_2 = "objectives.alignment_parameter:AlignmentParameterConstraint"

ALIGNED = Method("aligned", "aligned model θₛ, untrained", None, None, short="θₛ", stage="start")
PLAIN = Method("plain", "plain fine-tuning", None, None, reads_safety=False)
CASE_1 = Method(
    "alignment-loss",
    "Case I (alignment loss)",
    None,
    "objectives.alignment_loss:AlignmentLossConstraint",
    hyperparameter="penalty",
    symbol="λ",
    short="Case I",
    gist="a penalty on the safety loss",
    plain_at=0.0,
    takes_target=True,
)
CASE_1_BUDGET = Method(
    "alignment-loss-budget",
    "Case I by a budget",
    "Case I otherwise",
    "objectives.budget:Budget",
    hyperparameter="budget",
    short="Case I",
    gist="a limit to the safety loss",
    plain_at=math.inf,
    tightest="smallest",
    takes_target=True,
    one_training=True,
    keeps_each=True,
)
CASE_2 = Method(
    "alignment-parameter",
    "Case II (parameters, by λ)",
    "Methods on weights",
    _CASE_2,
    hyperparameter="penalty",
    symbol="λ",
    short="Case II",
    gist="a penalty on how far the weights move",
    plain_at=0.0,
    reads_safety=False,
)
CASE_2_RADIUS = Method(
    "alignment-parameter-radius",
    "Case II (parameters, by ε)",
    "Methods on weights",
    _CASE_2,
    hyperparameter="radius",
    symbol="ε",
    short="Case II",
    gist="weights held within a radius of the start’s",
    plain_at=math.inf,
    tightest="smallest",
    reads_safety=False,
)
DIAL = Method(
    "dial",
    "dial",
    "Case I otherwise",
    "objectives.dial:DialObjective",
    hyperparameter="alpha",
    symbol="α",
    gist="one training for every trade-off",
    tightest="smallest",
    takes_target=True,
    one_training=True,
)
OWN = {
    method.name: method
    for method in (
        ALIGNED,
        PLAIN,
        CASE_1,
        CASE_1_BUDGET,
        CASE_2,
        CASE_2_RADIUS,
        DIAL,
    )
}
"""The start, plain fine-tuning, the paper's two cases, and what this project adds to them."""

PUBLISHED: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            "case-one-by-share",
            "Case I, rows in proportion to λ",
            "Case I otherwise",
            "baselines.case_one_by_share:CaseOneByShare",
            _DECADES,
            hyperparameter="penalty",
            symbol="λ",
        ),
        Method(
            "mixing",
            "mixing (SafeInstr)",
            _SAFETY_ROWS,
            "baselines.mixing:Mixing",
            _DECADES,
            hyperparameter="ratio",
        ),
        Method(
            "kl-anchor",
            "KL anchor, safety rows",
            _SAFETY_ROWS,
            "baselines.kl_anchor:KLAnchor",
            _DECADES,
            hyperparameter="penalty",
            symbol="λ",
        ),
        Method(
            "safegrad",
            "gradient surgery (SafeGrad)",
            _SAFETY_ROWS,
            "baselines.gradient_surgery:GradientSurgery",
            _DECADES,
        ),
        Method(
            "pcgrad",
            "gradient surgery (PCGrad)",
            _SAFETY_ROWS,
            "baselines.gradient_surgery:GradientSurgery",
            _DECADES,
            {"towards": "data"},
        ),
        Method(
            "lazy-safety-alignment",
            "lazy safety alignment (Lisa)",
            _SAFETY_ROWS,
            "baselines.lazy_safety_alignment:LazySafetyAlignment",
            (0.1, 0.3, 1.0, 3.0, 10.0),
            hyperparameter="proximity",
        ),
        Method(
            "orthogonal-projection",
            "orthogonal gradient projection (OGPSA)",
            _SAFETY_ROWS,
            "baselines.orthogonal_projection:OrthogonalProjection",
            (0.25, 0.5, 0.75, 0.9, 1.0),
        ),
        Method(
            "spf",
            "safety-preserving fine-tuning (SPF)",
            _SAFETY_ROWS,
            "baselines.safety_preserving:SafetyPreserving",
            (1, 2, 4, 8, 16),
            hyperparameter="rank",
            short="SPF",
        ),
        Method(
            "osf",
            "orthogonal subspace (OSF)",
            _WEIGHTS,
            "baselines.orthogonal_subspace:OrthogonalSubspace",
            (0.1, 0.3, 0.5, 0.7, 0.9),
            hyperparameter="kept_share",
            reads_safety=False,
            trains_whole_weights=True,
        ),
        Method(
            "l2-sp",
            "L2-SP",
            _WEIGHTS,
            "baselines.l2_sp:L2SP",
            _LOWER_DECADES,
            hyperparameter="penalty",
            symbol="λ",
            reads_safety=False,
        ),
        Method(
            "ewc",
            "EWC",
            _WEIGHTS,
            "baselines.ewc:EWC",
            _DECADES,
            hyperparameter="penalty",
            symbol="λ",
        ),
        Method(
            "wise-ft",
            "interpolation (WiSE-FT)",
            _WEIGHTS,
            "baselines.interpolation:Interpolation",
            (0.1, 0.3, 0.5, 0.7, 0.9),
            stage="after training",
            hyperparameter="share",
        ),
        Method(
            "resta",
            "RESTA",
            _WEIGHTS,
            "baselines.resta:RESTA",
            (0.1, 0.2, 0.4, 0.7, 1.0),
            stage="after training",
            needs_unaligned=True,
            takes_seed=True,
        ),
        Method(
            "safe-lora",
            "SafeLoRA",
            _WEIGHTS,
            "baselines.safe_lora:SafeLoRA",
            (0.3, 0.4, 0.45, 0.5, 0.6),
            stage="after training",
            needs_unaligned=True,
            hyperparameter="threshold",
        ),
        Method(
            "constrained-sft",
            "token-wise constrained SFT",
            _TASK_ROWS,
            "baselines.constrained_sft:ConstrainedSFT",
            _LOWER_DECADES,
            reads_safety=False,
        ),
        Method(
            "kl-anchor-on-task",
            "KL anchor, task rows",
            _TASK_ROWS,
            "baselines.kl_anchor:KLAnchor",
            _DECADES,
            {"on": "task"},
            hyperparameter="penalty",
            symbol="λ",
            reads_safety=False,
        ),
        Method(
            "adaptive-kl",
            "KL by the prompt's risk",
            _TASK_ROWS,
            "baselines.adaptive_kl:AdaptiveKL",
            (0.2, 0.4, 0.6, 0.8, 0.9),
            hyperparameter="highest",
            symbol="β",
        ),
        Method(
            "pact",
            "safety tokens held (PACT)",
            _TASK_ROWS,
            "baselines.pact:PACT",
            _DECADES,
            hyperparameter="penalty",
            symbol="λ",
            short="PACT",
            needs_unaligned=True,
        ),
        Method(
            "early-stopping",
            "early stopping",
            _TASK_ROWS,
            "baselines.early_stopping:EarlyStopping",
            (0.4, 0.3, 0.2, 0.1, 0.05),
            hyperparameter="budget",
            tightest="smallest",
        ),
        Method(
            "seal",
            "data selection (SEAL)",
            _TASK_ROWS,
            "baselines.data_selection:DataSelection",
            (0.9, 0.8, 0.6, 0.4, 0.2),
            hyperparameter="kept_share",
            tightest="smallest",
        ),
        Method(
            "random-subset",
            "random subset",
            _TASK_ROWS,
            "baselines.data_selection:RandomSubset",
            (0.9, 0.8, 0.6, 0.4, 0.2),
            hyperparameter="kept_share",
            tightest="smallest",
            reads_safety=False,
        ),
    )
}

CASE_2_BUDGET = Method(
    "alignment-parameter-budget",
    "Case II by a budget",
    "Methods on weights",
    None,
    hyperparameter="budget",
    short="Case II",
    plain_at=math.inf,
    tightest="smallest",
)
RETIRED = {CASE_2_BUDGET.name: CASE_2_BUDGET}
"""Methods of earlier versions: nothing is trained by them, and what was is still read."""

METHODS = OWN | PUBLISHED | RETIRED


def _known(name: str) -> Method:
    return METHODS[name]


def published(name: str) -> Method:
    """The published method of that name. Raises UserError, with the nearest one."""
    if name not in PUBLISHED:
        nearest = get_close_matches(name, PUBLISHED, n=1)
        hint = f"Did you mean {nearest[0]}?" if nearest else f"Known are {', '.join(PUBLISHED)}."
        raise UserError(f"there is no method {name!r}. {hint}")
    return PUBLISHED[name]
