"""Facts about what an audit says before training, in a world whose answer is known."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.audit.aligned_world import LENGTHS, AlignedWorld, Recorder, aligned_world, write_rows
from tests.watchers import Watcher
from trimtab import UserError
from trimtab.audit.audit import audit
from trimtab.audit.in_short import in_short
from trimtab.audit.own_proxy import empty_and_cut_answers, write_own_proxy
from trimtab.cli import main
from trimtab.config.audit_settings import AuditSettings
from trimtab.config.data_source import DataSource, Lengths
from trimtab.config.experiment import Block, Experiment, Measuring, Training
from trimtab.config.loading import Loading
from trimtab.config.methods import ALIGNED
from trimtab.data.sources import read_rows
from trimtab.data.synthetic import CONTEXTS, RESPONSES, SENSITIVE_TOPICS
from trimtab.measure.generation import sampled_answers
from trimtab.measure.influence import Influence
from trimtab.measure.overlap import MISSED_SHARE
from trimtab.models import load_model
from trimtab.report import write_report
from trimtab.report.audit_page import write_audit_page
from trimtab.runner.sweep import sweep
from trimtab.theory import context_overlap, total_variation

SETTINGS = AuditSettings(
    rows=600,
    lengths=LENGTHS,
    landscape="full",
    landscape_rows=64,
    tokens_per_batch=8192,
    repeats=True,
)


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> AlignedWorld:
    return aligned_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def record(there: AlignedWorld) -> dict[str, Any]:
    return audit_record(there, there.folder / "audit")


def audit_record(there: AlignedWorld, folder: Path | None, watcher: Recorder | None = None) -> Any:
    return audit(
        there.model,
        there.sources(there.task),
        there.sources(there.safety),
        there.source(there.original),
        SETTINGS,
        folder,
        watcher or Recorder(),
    ).to_json()


def status_of(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["trimtab", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_proxies_and_tasks_come_in_the_order_of_the_truth(
    there: AlignedWorld, record: dict[str, Any]
) -> None:
    assert record["forecast"]["proxies"] == ["near", "middle", "far"]
    assert record["forecast"]["tasks"] == ["apart", "mixed"]
    for similarity in record["similarity"]:
        exact = total_variation(there.world.original, there.world.safety[similarity["proxy"]])
        assert similarity["total_variation"]["low"] <= exact
    for pair in record["overlap"]:
        exact = context_overlap(there.world.task[pair["task"]], there.world.safety[pair["proxy"]])
        estimate = pair["task_on_safety"]  # but for what the threshold misses, it holds the truth
        assert estimate["low"] <= exact <= estimate["high"] + MISSED_SHARE * exact


def test_training_orders_the_proxies_as_forecast(
    there: AlignedWorld, record: dict[str, Any], tmp_path: Path
) -> None:
    plan = Experiment(
        model=there.model,
        original=DataSource(
            there.original, held_out=there.original.replace(".jsonl", "-whole.jsonl"), repeats=True
        ),
        safety={name: DataSource(path, repeats=True) for name, path in there.safety.items()},
        task={"mixed": DataSource(there.task["mixed"], repeats=True)},
        train=Training(steps=50, batch_size=64, learning_rate=2e-3),
        grid=(Block("alignment-loss", (1.0,)),),
        measure=Measuring(tokens_per_batch=16_384),
    )
    points = [point for point in sweep(plan, tmp_path, Watcher()) if point.method is not ALIGNED]
    points.sort(key=lambda point: point.alignment_loss.value)
    assert [point.proxy for point in points] == record["forecast"]["proxies"]


def test_no_overlap_needs_next_to_no_penalty(record: dict[str, Any]) -> None:
    penalties = {
        suggestion["task"]: suggestion["penalty"] for suggestion in record["forecast"]["penalties"]
    }
    assert penalties["apart"] < 0.05 * penalties["mixed"]


def test_rows_that_endanger_safety_are_left_out_and_say_why(
    there: AlignedWorld, record: dict[str, Any]
) -> None:
    rows = read_rows(DataSource(str(there.folder / "audit" / "kept-mixed.jsonl")))
    mixed = next(influence for influence in record["influence"] if influence["task"] == "mixed")
    assert mixed["left_out"] == 30
    assert len(rows) == 1500 - 30
    rates = [row["rate"] for row in mixed["worst"]]
    assert rates == sorted(rates, reverse=True)
    assert min(rates) > 0
    for row in mixed["worst"]:
        sensitive = any(topic in row["prompt"] for topic in SENSITIVE_TOPICS)
        assert any("safety prompts of near" in reason for reason in row["reasons"]) == sensitive


def test_every_number_has_its_kind_unit_and_error(record: dict[str, Any]) -> None:
    def estimates(value: Any) -> list[dict[str, Any]]:
        if isinstance(value, dict):
            own = [value] if "kind" in value else []
            return own + [estimate for inner in value.values() for estimate in estimates(inner)]
        if isinstance(value, list):
            return [estimate for inner in value for estimate in estimates(inner)]
        return []

    all_estimates = estimates(record)
    assert len(all_estimates) > 15
    assert {estimate["kind"] for estimate in all_estimates} == {"estimate"}
    for estimate in all_estimates:
        assert estimate["low"] <= estimate["value"] <= estimate["high"]
        assert estimate["unit"]
    assert all(
        quantity["errs"] and quantity["theory"] for quantity in record["quantities"].values()
    )
    assert json.loads(json.dumps(record, allow_nan=False)) == record


def test_an_interrupted_audit_goes_on_and_says_the_same(
    there: AlignedWorld, record: dict[str, Any], tmp_path: Path
) -> None:
    class Impatient(Recorder):
        def doing(self, what: str, steps: int | None = None) -> None:
            super().doing(what, steps)
            if what == "curvature of the safety loss":
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        audit_record(there, tmp_path, Impatient())
    watcher = Recorder()
    again = audit_record(there, tmp_path, watcher)
    finished = ("reading", "similarity", "overlap", "curvature of shared", "curvature of apart")
    assert not [stage for stage in watcher.stages if stage.startswith(finished)]
    assert again["similarity"] == record["similarity"]
    assert again["landscape"] == record["landscape"]
    assert again["forecast"]["proxies"] == record["forecast"]["proxies"]
    assert not (tmp_path / "unfinished").exists()


def test_own_answers_stand_in_for_the_original(there: AlignedWorld) -> None:
    record = audit(
        there.model,
        there.sources({"mixed": there.task["mixed"]}),
        there.sources({"far": there.safety["far"], "near": there.safety["near"]}),
        None,
        AuditSettings(rows=600, lengths=LENGTHS, landscape="none", repeats=True),
        None,
        Recorder(),
    ).to_json()
    assert record["reference"] == "the aligned model's own answers"
    assert record["forecast"]["proxies"] == ["near", "far"]
    assert record["landscape"] is None


def test_prompts_with_one_last_message_leave_their_overlap_open_and_nothing_else(
    there: AlignedWorld, tmp_path: Path
) -> None:
    """As where every task row asks one question about a document that stands before it."""
    lines = Path(there.task["mixed"]).read_text().splitlines()
    with (tmp_path / "task.jsonl").open("w") as file:
        for row in map(json.loads, lines):
            document = {"role": "system", "content": row["prompt"]}
            asked = {"role": "user", "content": CONTEXTS[0]}
            answer = {"role": "assistant", "content": row["response"]}
            file.write(json.dumps({"messages": [document, asked, answer]}) + "\n")
    result = audit(
        there.model,
        {"asked": DataSource(str(tmp_path / "task.jsonl"))},
        there.sources({"far": there.safety["far"], "near": there.safety["near"]}),
        there.source(there.original),
        AuditSettings(rows=600, lengths=LENGTHS, landscape="full", landscape_rows=16),
        tmp_path / "audit",
        Recorder(),
    )
    assert result.overlap == ()
    assert result.forecast.penalties == ()
    assert len(result.similarity) == 2
    assert any(line.startswith("asked: too few different") for line in result.forecast.reasoning)
    assert any(line.startswith("asked: whether") for line in in_short(result).untold)
    assert "asked: too few different" in write_audit_page(tmp_path / "audit").read_text()


def test_own_answers_are_a_sample_of_the_model(there: AlignedWorld) -> None:
    model, tokenizer = load_model(there.model)
    prompt = read_rows(there.source(there.original))[0].prompt
    answers = sampled_answers(model, tokenizer, [prompt] * 3000, LENGTHS, batch_size=1000)
    counts = np.array([answers.count(response) for response in RESPONSES]) / len(answers)
    ids = tokenizer(f"{prompt[0].content}\n")["input_ids"]
    expected = []
    for response in RESPONSES:
        reply = [*tokenizer(response)["input_ids"], tokenizer.eos_token_id]
        log_p = model(torch.tensor([ids + reply])).logits[0].detach().log_softmax(dim=-1)
        places = range(len(ids) - 1, len(ids) + len(reply) - 1)
        expected.append(float(sum(log_p[p, t] for p, t in zip(places, reply, strict=True)).exp()))
    assert 0.5 * np.abs(counts - np.array(expected)).sum() < 0.04


def test_the_pages_show_the_audit(
    there: AlignedWorld, record: dict[str, Any], tmp_path: Path
) -> None:
    page = write_audit_page(there.folder / "audit").read_text(encoding="utf-8")
    for words in ("Known before training", "near", "Theorem 3", "which way it errs"):
        assert words in page
    text = (there.folder / "audit" / "audit.json").read_text(encoding="utf-8")
    (tmp_path / "audit.json").write_text(text.replace('"near"', '"<near>"'), encoding="utf-8")
    demo = Path(__file__).parents[2] / "docs" / "demo" / "points.jsonl"
    (tmp_path / "points.jsonl").write_text(demo.read_text(encoding="utf-8"), encoding="utf-8")
    report = write_report(tmp_path).page.read_text(encoding="utf-8")
    assert "Known before training" in report
    assert "<near>" not in report
    plots = report.split('id="plots">')[1].split("</script>")[0]
    assert len(json.loads(plots)["plots"]) == report.count('class="plot"')


def test_the_command_prints_tables_json_and_one_line_for_a_mistake(
    there: AlignedWorld,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["audit", "--model", there.model, "--original", there.original]
    safety, task = ["--safety", f"near={there.safety['near']}"], ["--task", there.task["mixed"]]
    lengths = ["--max-prompt", "8", "--max-response", "8", "--landscape", "none", "--rows", "200"]
    assert status_of([*command, *safety, *task, *lengths, "--json"], monkeypatch) == 0
    assert json.loads(capsys.readouterr().out)["forecast"]["proxies"] == ["near"]

    few = write_rows(
        tmp_path / "few.jsonl",
        [{"prompt": CONTEXTS[0], "response": RESPONSES[n]} for n in range(3)],
    )
    long = write_rows(
        tmp_path / "long.jsonl",
        [{"prompt": " ".join(CONTEXTS * 5), "response": RESPONSES[0]}] * 30,
    )
    twice = ["--safety", f"again={there.original}"]
    for arguments, message in (
        ([*command, "--safety", few, *task, *lengths], "3 rows are too few"),
        ([*command, *twice, *task, *lengths], "hold the same rows"),
        ([*command, "--safety", long, *task], "the model reads 64"),
        ([*command, *safety, *safety, *task], "two data sets are called near"),
        ([*command, *safety, *task, "--budget", "-1"], "budget is -1.0"),
    ):
        assert status_of(arguments, monkeypatch) == 2
        *stages, line = capsys.readouterr().err.splitlines()
        assert message in line
        assert line.startswith("trimtab: ")
        assert all(stage.startswith(("loading", "reading")) for stage in stages)


def test_an_unknown_landscape_is_told_with_those_known() -> None:
    with pytest.raises(UserError, match=r"landscape is 'wide'\. Give 'lora', 'full' or 'none'"):
        AuditSettings(landscape="wide")  # type: ignore[arg-type]


def test_names_that_read_alike_together_have_numbers_of_their_own(
    there: AlignedWorld, tmp_path: Path
) -> None:
    mixed, apart = there.task["mixed"], there.task["apart"]
    tasks = {"a": mixed, "a and b": apart, "the safety loss": apart}
    rows = [json.loads(line) for line in Path(apart).read_text().splitlines()[:900]]
    apart_again = write_rows(tmp_path / "again.jsonl", rows)
    result = audit(
        there.model,
        there.sources(tasks | {"the safety loss": apart_again}),
        there.sources({"c": there.safety["near"], "b and c": there.safety["far"]}),
        there.source(there.original),
        AuditSettings(rows=200, lengths=LENGTHS, landscape_rows=8),
        tmp_path / "audit",
        Recorder(),
    )
    assert [(pair.task, pair.proxy) for pair in result.overlap] == [
        (task, proxy) for task in tasks for proxy in ("c", "b and c")
    ]
    assert result.landscape is not None
    curvature = result.landscape.tasks["the safety loss"].curvature
    assert curvature != result.landscape.safety_curvature


@pytest.mark.parametrize("landscape", ["lora", "full"])
@pytest.mark.parametrize(
    "load",
    [
        Loading("bfloat16"),
        Loading("float16"),
        Loading("bfloat16", "nf4"),
        Loading("float32", "int8"),
    ],
)
def test_a_landscape_is_not_taken_where_rounding_hides_it(load: Loading, landscape: Any) -> None:
    mend = "Give --landscape none, or --dtype float32 without --quantization"
    with pytest.raises(UserError, match=f"{load.in_words} rounds them away. {mend}"):
        AuditSettings(landscape=landscape, load=load)
    assert AuditSettings(landscape="none", load=load).load == load


def test_a_model_saved_in_16_bits_has_no_landscape_in_them(
    there: AlignedWorld, tmp_path: Path
) -> None:
    for part in load_model(there.model, Loading("bfloat16")):
        part.save_pretrained(tmp_path)
    settings = AuditSettings(rows=200, lengths=LENGTHS, load=Loading("auto"))
    with pytest.raises(UserError, match="is held in rounds them away"):
        audit(
            str(tmp_path),
            there.sources(there.task),
            there.sources(there.safety),
            there.source(there.original),
            settings,
            None,
            Recorder(),
        )


def test_nf4_that_computes_in_float32_has_a_landscape_but_over_all_weights() -> None:
    assert AuditSettings(load=Loading(quantization="nf4")).landscape == "lora"
    with pytest.raises(UserError, match="Give --landscape lora"):
        AuditSettings(landscape="full", load=Loading(quantization="nf4"))


def test_a_model_of_nans_is_one_line(there: AlignedWorld, tmp_path: Path) -> None:
    for file in Path(there.model).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="not finite numbers"):
        audit(
            str(tmp_path),
            there.sources(there.task),
            there.sources(there.safety),
            there.source(there.original),
            SETTINGS,
            None,
            Recorder(),
        )


def test_a_proxy_file_goes_on_as_if_never_stopped(there: AlignedWorld, tmp_path: Path) -> None:
    prompts = write_rows(tmp_path / "prompts.jsonl", [{"prompt": text} for text in CONTEXTS[:10]])

    def write(out: Path) -> str:
        write_own_proxy(there.model, DataSource(prompts), out, LENGTHS, 4, 0, Recorder())
        return out.read_text(encoding="utf-8")

    whole = write(tmp_path / "whole.jsonl")
    assert [json.loads(line)["prompt"] for line in whole.splitlines()] == list(CONTEXTS[:10])
    for length in (len(whole) // 3, 2 * len(whole) // 3, len(whole) - 1, len(whole)):
        (tmp_path / "cut.jsonl").write_text(whole[:length], encoding="utf-8")
        assert write(tmp_path / "cut.jsonl") == whole
    assert {
        row.response
        for row in read_rows(DataSource(str(tmp_path / "whole.jsonl"), drop_empty=True))
    } <= set(RESPONSES)
    lines = whole.splitlines()
    emptied = json.dumps(json.loads(lines[0]) | {"response": ""})
    (tmp_path / "emptied.jsonl").write_text("\n".join([emptied, *lines[1:]]) + "\n")
    empty, cut = empty_and_cut_answers(tmp_path / "whole.jsonl")
    assert cut == whole.count("cut_short")
    assert empty_and_cut_answers(tmp_path / "emptied.jsonl")[0] == empty + 1
    (tmp_path / "other.jsonl").write_text('{"prompt": "x", "response": "y"}\n')
    with pytest.raises(UserError, match="no answer to prompt 1"):
        write(tmp_path / "other.jsonl")


def test_answers_that_are_cut_are_marked_and_prompts_of_one_message_or_more_make_one_file(
    there: AlignedWorld, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    records: list[dict[str, object]] = [{"prompt": text} for text in CONTEXTS[:4]]
    records.append({"prompt": CONTEXTS[4], "system": CONTEXTS[5]})
    prompts, out = write_rows(tmp_path / "prompts.jsonl", records), tmp_path / "own.jsonl"
    short = Lengths(prompt=1, response=1)
    write_own_proxy(there.model, DataSource(prompts), out, short, 4, 0, Recorder())
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert all("messages" in line for line in lines)
    rows = read_rows(DataSource(str(out), drop_empty=True))
    assert [row.is_whole for row in rows] == [False] * len(rows)  # a token alone holds no end
    assert empty_and_cut_answers(out) == (len(lines) - len(rows), len(rows))
    assert "asked without their beginning" in caplog.text
    before = out.read_bytes()
    write_own_proxy(there.model, DataSource(prompts), out, short, 4, 0, Recorder())
    assert out.read_bytes() == before


def test_the_worst_rows_are_the_worst() -> None:
    influence = Influence(np.array([0.3, -1.0, 0.9, 0.0]), trial=0.1)
    assert influence.worst(0.5).tolist() == [2, 0]
    assert influence.worst(1.0).tolist() == [2, 0]
