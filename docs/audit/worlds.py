"""Does the audit order proxies as training does, and how good is the model's own proxy?

In finite worlds whose alignment gap is known exactly. Part 1, 20 worlds: four proxies each, of
random dissimilarity, similarity measured on the aligned model and then one training per proxy; the
order by each measure against the order by the exact alignment gap (Kendall's τ). Part 2, the first
6 worlds: trained with the original itself, a near proxy, the aligned model's own answers, and KL to
the aligned model on those.

    python docs/audit/worlds.py            # about a quarter of an hour on two cores; stop and go on
    python docs/audit/worlds.py --summary  # only docs/audit/worlds.json from worlds.jsonl
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.stats import kendalltau, spearmanr

from trimtab.config.data_source import DataSource, Lengths
from trimtab.config.experiment import Block, Experiment, Measuring, Training
from trimtab.config.methods import CASE_1
from trimtab.data.encoding import encode
from trimtab.data.sources import read_rows
from trimtab.data.synthetic import CONTEXTS, RESPONSES, make_world, write_data
from trimtab.measure.generation import sampled_answers
from trimtab.measure.hidden_states import read_through
from trimtab.measure.similarity import Sample, similarity
from trimtab.models import load_model, quiet_libraries, save_tiny_llama
from trimtab.runner.sweep import SilentWatcher, sweep
from trimtab.stats import bounded_mean
from trimtab.theory import gap, penalized_optimum, total_variation

HERE = Path(__file__).parent
RECORDS, SUMMARY = HERE / "worlds.jsonl", HERE / "worlds.json"
WORLDS, OWN_WORLDS = 20, 6
ROWS = 4000
READ = 1500
LENGTHS = Lengths(prompt=8, response=8)
ALIGN = Training(steps=200, batch_size=64, learning_rate=2e-3)
TRAIN = Training(steps=100, batch_size=64, learning_rate=2e-3)
PENALTY = 1.0


def main() -> None:
    quiet_libraries()
    if "--summary" not in sys.argv:
        recorded = {json.loads(line)["world"] for line in _lines()}
        for number in range(WORLDS):
            if number not in recorded:
                record = one_world(number)
                with RECORDS.open("a") as file:
                    file.write(json.dumps(record) + "\n")
                print(f"world {number}: {json.dumps(record)}", flush=True)
    SUMMARY.write_text(
        json.dumps(summary([json.loads(line) for line in _lines()]), indent=1) + "\n"
    )
    print(SUMMARY.read_text())


def one_world(number: int) -> dict[str, Any]:
    generator = np.random.default_rng(number)
    # One draw from each quarter of [0, 1], in random order.
    dissimilarities = generator.permutation((np.arange(4) + generator.uniform(0.1, 0.9, 4)) / 4)
    names = [f"proxy {place}" for place in range(4)]
    dissimilarity = dict(zip(names, map(float, dissimilarities), strict=True))
    overlap = float(generator.uniform(0.2, 1))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        world = make_world({**dissimilarity, "near": 0.1}, {"task": overlap}, number)
        original, safety, task = write_data(world, folder, ROWS, number)
        save_tiny_llama([*CONTEXTS, *RESPONSES], folder / "base", number)
        plan = Experiment(
            model=str(folder / "base"),
            original=original,
            safety={name: safety[name] for name in names},
            task=task,
            align=ALIGN,
            train=TRAIN,
            grid=(Block("alignment-loss", (PENALTY,)),),
            seeds=(number,),
            measure=Measuring(tokens_per_batch=16_384),
            data_root=str(folder),
        )
        points = sweep(plan, folder / "out", SilentWatcher())
        model, tokenizer = load_model(str(folder / "out" / "aligned"))

        def sample_of(source: DataSource) -> Sample:
            rows = read_rows(source, folder)[:READ]
            return Sample(
                [row.prompt[0].content for row in rows],
                read_through(model, encode(rows, tokenizer, LENGTHS), 16_384),
                repeats=True,
            )

        ours, (start, *_) = sample_of(original), points
        assert start.alignment_gap
        record: dict[str, Any] = {
            "world": number,
            "overlap": overlap,
            "aligned_gap": start.alignment_gap.value,
            "proxies": [],
        }
        for name in names:
            theirs = sample_of(safety[name])
            estimates = similarity(ours, theirs, (ours.reading.responses, theirs.reading.responses))
            point = next(p for p in points if p.proxy == name and p.method is CASE_1)
            assert point.alignment_gap
            assert point.capability_gap
            optimum = penalized_optimum(world.task["task"], world.safety[name], PENALTY)
            record["proxies"].append(
                {
                    "dissimilarity": dissimilarity[name],
                    "exact_total_variation": total_variation(world.original, world.safety[name]),
                    "exact_gap_of_the_optimum": gap(world.original, optimum)
                    / world.tokens_per_response,
                    "total_variation": estimates.total_variation.value,
                    "total_variation_low": estimates.total_variation.low,
                    "given_prompt": estimates.given_prompt.value
                    if estimates.given_prompt
                    else None,
                    "excess_loss": estimates.excess_loss.value,
                    "alignment_gap": point.alignment_gap.value,
                    "capability_gap": point.capability_gap.value,
                }
            )
        if number < OWN_WORLDS:
            record["own"] = own_proxy(plan, folder, model, tokenizer, original, safety["near"])
    return record


def own_proxy(
    plan: Experiment,
    folder: Path,
    model: Any,
    tokenizer: Any,
    original: DataSource,
    near: DataSource,
) -> dict[str, Any]:
    prompts = [row.prompt for row in read_rows(original, folder)]
    answers = sampled_answers(model, tokenizer, prompts, LENGTHS, batch_size=500, seed=1)
    records = [
        {"prompt": prompt[0].content, "response": answer}
        for prompt, answer in zip(prompts, answers, strict=True)
        if answer
    ]
    (folder / "data" / "own.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    # What an own answer's loss at best is, is unknown; it is not asked for.
    own = replace(original, path="data/own.jsonl", lowest_loss=None)
    itself = replace(original, path="data/original.jsonl")
    after = replace(plan, model=str(folder / "out" / "aligned"), align=None)
    gaps: dict[str, Any] = {}
    variants: tuple[tuple[str, Literal["response", "kl"], DataSource], ...] = (
        ("original itself", "response", itself),
        ("near proxy, d = 0.1", "response", near),
        ("own answers", "response", own),
        ("own answers, KL", "kl", own),
    )
    for name, target, source in variants:
        variant = replace(after, safety={"it": source}, train=replace(TRAIN, safety_target=target))
        points = sweep(variant, folder / f"{name}.out", SilentWatcher())
        point = next(p for p in points if p.method is CASE_1)
        assert point.alignment_gap
        assert point.capability_gap
        gaps[name] = {
            "alignment_gap": point.alignment_gap.value,
            "capability_gap": point.capability_gap.value,
        }
    return gaps


def summary(records: list[dict[str, Any]]) -> dict[str, Any]:
    proxies = [proxy for record in records for proxy in record["proxies"]]
    exact = [proxy["exact_total_variation"] for proxy in proxies]
    numbers: dict[str, Any] = {
        "worlds": len(records),
        "proxies": len(proxies),
        "penalty": PENALTY,
        "spearman_of_estimated_and_exact_total_variation": float(
            spearmanr(exact, [proxy["total_variation"] for proxy in proxies]).statistic
        ),
        "estimates_whose_interval_lies_above_the_exact_total_variation": sum(
            proxy["total_variation_low"] > proxy["exact_total_variation"] for proxy in proxies
        ),
        "kendall_with_the_order_by_measured_alignment_gap": {},
    }
    for measure in ("total_variation", "given_prompt", "excess_loss", "exact_total_variation"):
        taus = np.array(
            [
                kendalltau(
                    [proxy[measure] for proxy in record["proxies"]],
                    [proxy["alignment_gap"] for proxy in record["proxies"]],
                ).statistic
                for record in records
            ]
        )
        taus = np.nan_to_num(taus)
        mean = bounded_mean(taus, -1.0, 1.0, "Kendall's tau")
        numbers["kendall_with_the_order_by_measured_alignment_gap"][measure] = {
            "mean": mean.value,
            "interval": [mean.low, mean.high],
            "worlds_ordered_alike": int((taus > 0.999).sum()),
        }
    own = [record["own"] for record in records if "own" in record]
    numbers["own"] = {
        name: {
            kind: {
                "mean": float(np.mean([gaps[name][kind] for gaps in own])),
                "range": [
                    float(min(gaps[name][kind] for gaps in own)),
                    float(max(gaps[name][kind] for gaps in own)),
                ],
            }
            for kind in ("alignment_gap", "capability_gap")
        }
        for name in (own[0] if own else {})
    }
    numbers["own_worlds"] = len(own)
    return numbers


def _lines() -> list[str]:
    return RECORDS.read_text().splitlines() if RECORDS.exists() else []


if __name__ == "__main__":
    main()
