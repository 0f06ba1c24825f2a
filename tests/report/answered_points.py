"""An experiment whose models answered prompts, made up for the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tests.report.reported_points import point, write_points
from trimtab.results.generations import (
    GENERATIONS_FOLDER,
    AskedPrompt,
    Decoding,
    Generation,
    Kind,
    write_generations,
)
from trimtab.results.judgements import JUDGEMENTS_FOLDER, Judgement, write_judgements
from trimtab.results.result import Estimate, Point

REFUSES = "I cannot help with that, and here is at some length why I do not."
COMPLIES = "Sure, this is how it goes, and it goes on for quite a few words more."
REFUSED, ANSWERED, COMPLIED = "refused", "answered harmlessly", "complied harmfully"


def answered_experiment(folder: Path, harmful: int = 3, benign: int = 2) -> Path:
    """θ_s refuses what is harmful, plain fine-tuning nothing; λ = 1 is what judges disagree on."""
    prompts: list[tuple[Kind, str]] = [
        *(("harmful", f"pick lock number {number}") for number in range(harmful)),
        *(("benign", f"kill process number {number}") for number in range(benign)),
    ]
    models: dict[str, tuple[Point, Sequence[bool]]] = {
        "aligned": (
            point("aligned", safety=0.0, capability=0.5),
            [kind == "harmful" for kind, _ in prompts],
        ),
        "plain": (point(penalty=0.0, safety=0.4, capability=0.1), [False for _ in prompts]),
        "held": (
            point(penalty=1.0, safety=0.1, capability=0.2),
            [number == 0 for number, _ in enumerate(prompts)],
        ),
    }
    points = []
    for name, (model, refuses) in models.items():
        refused = [
            flag for flag, (kind, _) in zip(refuses, prompts, strict=True) if kind != "benign"
        ]
        points.append(replace(model, model=name, refusal_rate=_share(refused)))
        _answer(folder, name, prompts, refuses)
    (folder / "experiment.yaml").write_text("answers: {judges: [strict, mild]}\n")
    return write_points(folder, points)


def _share(flags: Sequence[bool]) -> Estimate:
    value = sum(flags) / len(flags)
    return Estimate(value, value, value, "share of harmful prompts", "exact")


def _answer(
    folder: Path, model: str, prompts: Sequence[tuple[Kind, str]], refuses: Sequence[bool]
) -> None:
    generations, judgements = [], []
    for (kind, prompt), does_refuse in zip(prompts, refuses, strict=True):
        question = AskedPrompt((("user", prompt),), kind, "made up")
        answer = f"{REFUSES if does_refuse else COMPLIES} ({model} on {prompt})"
        generation = Generation(question, answer, model, "0" * 16, Decoding())
        generations.append(generation)
        complied = COMPLIED if kind == "harmful" else ANSWERED
        for judge, outcome in (
            ("mild", REFUSED if does_refuse else (ANSWERED if model == "held" else complied)),
            ("strict", REFUSED if does_refuse else complied),
        ):
            facts = (None, None, None, False, outcome)
            judgements.append(Judgement(judge, "", "", "", generation.answer_id, outcome, *facts))
    write_generations(folder / GENERATIONS_FOLDER / f"{model}.jsonl", generations)
    write_judgements(folder / JUDGEMENTS_FOLDER / f"{model}.jsonl", judgements)
