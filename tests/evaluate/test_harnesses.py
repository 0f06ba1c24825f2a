"""Facts about what lm-eval and Inspect measure: kept, compared in pairs, and not run again."""

from __future__ import annotations

import json
import math
import shlex
import statistics
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from peft import LoraConfig, get_peft_model
from scipy.stats import t as student
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner, Result

from tests.evaluate.tiny import save_tiny_chat
from trimtab.cli import app
from trimtab.config.loading import Loading
from trimtab.errors import UserError
from trimtab.evaluate.evaluation import Evaluation, evaluate
from trimtab.evaluate.harnesses.base import Measured, kept_samples
from trimtab.evaluate.harnesses.inspect import Inspect
from trimtab.evaluate.harnesses.lm_eval import LmEval
from trimtab.evaluate.harnesses.metrics import metric_changes, metrics
from trimtab.evaluate.harnesses.task_files import task_digest
from trimtab.models import as_one_folder, load_model, weights_sha256
from trimtab.results.checksums import sha256_of
from trimtab.results.harness_samples import HarnessRun, HarnessSample, read_harness_samples
from trimtab.runner.sweep import SilentWatcher
from trimtab.stats import share_change

WORDS = ["help", "tell", "sure", "ask", "i", "Yes", "No", "safe"]
CHOICE = """
task: choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_target: answer
doc_to_choice: choices
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: f1, higher_is_better: true}}
"""
SAID = """
from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.model import GenerateConfig
from inspect_ai.scorer import includes
from inspect_ai.solver import generate


@task
def said():
    asked = [Sample(input="ask " + word, target="o") for word in WORDS]
    config = GenerateConfig(max_tokens=6)
    return Task(dataset=asked, solver=generate(), scorer=includes(), config=config)
""".replace("WORDS", repr(WORDS))


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A start model, an adapter on it, a task for lm-eval and one for Inspect."""
    folder = tmp_path_factory.mktemp("harnessed")
    save_tiny_chat(folder / "start")
    model, _ = load_model(str(folder / "start"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        targets = ["q_proj", "v_proj"]
        lora = LoraConfig(r=2, lora_alpha=64, target_modules=targets, init_lora_weights=False)
        get_peft_model(model, lora).save_pretrained(folder / "adapter")
    (folder / "tasks").mkdir()
    rows = folder / "tasks" / "rows.jsonl"
    rows.write_text(
        "".join(
            json.dumps({"question": f"ask {word}", "choices": [word, partner], "answer": place % 2})
            + "\n"
            for place, (word, partner) in enumerate(zip(WORDS, WORDS[3:] + WORDS[:3], strict=True))
        )
    )
    (folder / "tasks" / "choice.yaml").write_text(CHOICE.format(rows=rows))
    (folder / "tasks" / "said.py").write_text(SAID)
    return folder


@pytest.fixture(scope="module")
def models(folder: Path) -> list[str]:
    return [str(folder / "start"), str(folder / "adapter")]


@pytest.fixture(scope="module")
def by_lm_eval(
    folder: Path, models: list[str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Evaluation]:
    pytest.importorskip("lm_eval")
    out = tmp_path_factory.mktemp("by-lm-eval")
    harness = LmEval(("choice",), 6, folder / "tasks")
    return out, evaluate(models, [], [], out, SilentWatcher(), harnesses=[harness])


@dataclass(frozen=True)
class Arithmetic:
    """A harness whose every task has one sample, which every model solves."""

    tasks: tuple[str, ...]
    name: ClassVar[str] = "arithmetic"
    package: ClassVar[str] = "torch"
    limit: int | None = None
    load: Loading = field(default_factory=Loading)
    result: float = 1.0

    def place(self, task: str) -> Path | None:
        return Path(task)

    def loaded(self, run: HarnessRun) -> AbstractContextManager[Callable[[str], list[Measured]]]:
        return nullcontext(lambda task: [Measured(task, "1 + 1", {"right": self.result})])

    def command(self, model: str) -> str:
        return "arithmetic"


def test_how_far_a_harness_is_counts_the_tasks_asked_for(folder: Path, tmp_path: Path) -> None:
    def told(*tasks: str) -> list[int]:
        counts: list[int] = []
        start = str(folder / "start")
        kept_samples(Arithmetic(tasks), "start", start, tmp_path, counts.append)
        return counts

    assert told("a", "b") == [0, 1, 2]
    assert told("c") == [0, 1]
    assert told("b", "d") == [1, 2]
    assert told("a", "c") == [2]


def test_a_task_whose_files_were_changed_is_run_again(folder: Path, tmp_path: Path) -> None:
    task, other = tmp_path / "sums.yaml", tmp_path / "others.yaml"
    files = {name: tmp_path / name for name in ("common.yaml", "rows.jsonl", "notes.yaml")}
    for path in (task, other, *files.values()):
        path.write_text("task: more\n")
    task.write_text("include: common.yaml\n")
    files["common.yaml"].write_text("dataset_kwargs: {data_files: rows.jsonl}\n")

    def right(result: float) -> list[float]:
        harness = Arithmetic((str(task), str(other)), result=result)
        start = str(folder / "start")
        samples = kept_samples(harness, "start", start, tmp_path / "out", lambda count: None)
        return [sample.metrics["right"] for sample in samples]

    assert right(0.0) == [0.0, 0.0]
    assert right(1.0) == [0.0, 0.0]
    for count, path in enumerate((task, files["common.yaml"], files["rows.jsonl"]), start=1):
        path.write_text(path.read_text() + "# changed\n")
        assert right(count) == [count, 0.0]
    files["notes.yaml"].write_text("of something else\n")
    assert right(9.0) == [3.0, 0.0]


def test_a_folder_of_tasks_is_known_by_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "tasks"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "mine.yaml").write_text("task: mine\n")
    harness = LmEval(("mine",), include_path=folder)
    before = task_digest(harness.place("mine"))
    (folder / "a.log").write_text("nothing of the task")
    assert task_digest(harness.place("mine")) == before
    (folder / "inner" / "mine.yaml").write_text("task: mine\nnum_fewshot: 5\n")
    assert task_digest(harness.place("mine")) != before
    assert task_digest(LmEval(("arc_easy",)).place("arc_easy")) == ""


def test_lm_evals_command_loads_a_model_as_it_was_measured(folder: Path) -> None:
    load = Loading(dtype="bfloat16", attention="eager", revision="v2")
    command = LmEval(("choice",), 6, load=load).command(str(folder / "start"))
    assert command is not None
    words = shlex.split(command)
    arguments = words[words.index("--model_args") + 1].split(",")
    assert {"dtype=bfloat16", "attn_implementation=eager", "revision=v2"} <= set(arguments)
    quantised = LmEval(("choice",), 6, load=Loading(quantization="nf4"))
    assert quantised.command(str(folder / "start")) is None


def test_lm_eval_is_kept_sample_by_sample(
    by_lm_eval: tuple[Path, Evaluation], models: list[str]
) -> None:
    out, evaluation = by_lm_eval
    adapter = Path(models[1])
    for model, evaluated in zip(models, evaluation.models, strict=True):
        samples = read_harness_samples(out / "harnesses" / "lm-eval" / f"{Path(model).name}.jsonl")
        assert samples == list(evaluated.samples)
        assert [sample.sample for sample in samples] == list("012345")
        assert {sample.run.model for sample in samples} == {model}
        # f1 is no mean over samples.
        assert {tuple(sample.metrics) for sample in samples} == {("acc",)}
    weights = sha256_of(adapter / "adapter_model.safetensors")
    assert {sample.run.sha256 for sample in evaluation.models[1].samples} == {weights}


def likelihood(name: str, question: str, choice: str) -> float:
    """log p(choice | question), in nats."""
    model, tokenizer = load_model(name)
    ids = tokenizer(f"{question} {choice}", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        logs = model(ids).logits[0, :-1].log_softmax(-1)
    question_length = len(tokenizer(question)["input_ids"])
    return float(logs.gather(1, ids[0, 1:, None])[question_length - 1 :].sum())


def test_lm_evals_choice_is_the_likelier_text(
    by_lm_eval: tuple[Path, Evaluation], folder: Path, models: list[str]
) -> None:
    rows = [json.loads(line) for line in (folder / "tasks/rows.jsonl").open()]
    for model, evaluated in zip(models, by_lm_eval[1].models, strict=True):
        for row, sample in zip(rows, evaluated.samples, strict=False):
            likelier = [likelihood(model, row["question"], choice) for choice in row["choices"]]
            chosen = likelier.index(max(likelier))
            assert sample.metrics["acc"] == float(chosen == row["answer"])


def test_a_second_run_runs_nothing(
    by_lm_eval: tuple[Path, Evaluation],
    folder: Path,
    models: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, evaluation = by_lm_eval
    monkeypatch.setattr("trimtab.evaluate.harnesses.lm_eval.load_model", None)
    options = ("--lm-eval", "choice", "--lm-eval-path", folder / "tasks", "--out", out)
    shown = invoke(*models, *options, "--limit", 6)
    assert shown.exit_code == 0, shown.output
    share = evaluation.models[0].metrics()["choice acc"].value
    assert f"{100 * share:.0f} %" in shown.output
    fewer = invoke(*models, *options, "--limit", 5)
    assert "holds samples under limit 6, and 5 is asked for" in fewer.output


def test_the_harnesses_own_commands_are_told(
    by_lm_eval: tuple[Path, Evaluation], folder: Path, models: list[str]
) -> None:
    options = ("--lm-eval", "choice", "--lm-eval-path", folder / "tasks", "--limit", 6)
    shown = invoke(*models, *options, "--out", by_lm_eval[0])
    start, adapter, *_, inspected = (shlex.split(line) for line in shown.output.splitlines()[-4:])
    arguments = dict(
        pair.split("=") for pair in adapter[adapter.index("--model_args") + 1].split(",")
    )
    files = {"pretrained": models[0], "peft": models[1], "tokenizer": models[0]}
    assert arguments == {**files, "dtype": "float32"}
    assert start[start.index("--limit") + 1] == "6"
    assert f"model_path={models[1]}" in inspected


def test_inspects_log_and_the_record_tell_the_adapter(
    folder: Path, models: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("inspect_ai")
    from inspect_ai.log import list_eval_logs, read_eval_log

    monkeypatch.setenv("COLUMNS", "200")
    task = f"{folder / 'tasks' / 'said.py'}@said"
    arguments = (*models, "--inspect", task, "--limit", 5, "--out", tmp_path)
    shown = invoke(*arguments)
    assert shown.exit_code == 0, shown.output
    assert "said includes" in shown.output
    logs = [read_eval_log(info) for info in list_eval_logs(str(tmp_path / "inspect-logs"))]
    assert len(logs) == 2
    for log in logs:
        assert log.eval.metadata is not None
        model = log.eval.metadata["model"]
        assert log.eval.metadata["sha256"] == weights_sha256(model)
        samples = read_harness_samples(tmp_path / f"harnesses/inspect/{Path(model).name}.jsonl")
        assert {sample.run.sha256 for sample in samples} == {weights_sha256(model)}
        scored = {
            str(sample.id): float(sample.scores["includes"].value == "C")
            for sample in log.samples or []
            if sample.scores
        }
        assert {sample.sample: sample.metrics["includes"] for sample in samples} == scored
    again = invoke(*arguments)
    assert again.output == shown.output
    assert len(list_eval_logs(str(tmp_path / "inspect-logs"))) == 2


@pytest.mark.parametrize(
    ("option", "task", "package"),
    [("--lm-eval", "gone.yaml", "lm_eval"), ("--inspect", "gone.py@said", "inspect_ai")],
)
def test_an_unknown_task_is_one_line(
    option: str, task: str, package: str, models: list[str], tmp_path: Path
) -> None:
    pytest.importorskip(package)
    shown = invoke(models[0], option, task, "--out", tmp_path)
    assert shown.exit_code == 2
    last = shown.output.splitlines()[-1]
    assert last.startswith(f"trimtab: {option[2:]} task {task!r} cannot be run (")


@pytest.mark.parametrize("harness", [LmEval(("choice",)), Inspect(("said.py",))])
def test_a_harness_that_is_not_installed_is_one_line(
    harness: LmEval | Inspect,
    models: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(type(harness), "package", "no_such_package")
    shown = invoke(models[0], f"--{harness.name}", harness.tasks[0], "--out", tmp_path)
    assert shown.exit_code == 2
    message = f"trimtab: --{harness.name} needs the package no_such_package. Install it with pip "
    assert shown.output == f"{message}install {harness.package}.\n"


def test_an_adapters_one_folder_is_the_model_that_is_measured(models: list[str]) -> None:
    words = torch.arange(3, 12)[None]
    with torch.no_grad(), as_one_folder(models[1]) as folder:
        alone = AutoModelForCausalLM.from_pretrained(folder)(words).logits
        assert torch.equal(alone, load_model(models[1])[0](words).logits)
        assert not torch.equal(alone, load_model(models[0])[0](words).logits)
    assert not Path(folder).exists()
    with as_one_folder(models[0]) as folder:
        assert folder == models[0]
    assert Path(folder).exists()


def harness_sample(
    task: str, number: int, metrics: dict[str, float], content: str = ""
) -> HarnessSample:
    run = HarnessRun("lm-eval", "0", "model", "", None)
    return HarnessSample(task, str(number), content, metrics, run)


def test_a_change_is_paired_by_sample() -> None:
    before, after = [0.1, 0.5, 0.9, 0.4], [0.3, 0.6, 0.9, 0.9]
    samples = [
        [harness_sample("own.yaml", place, {"f": value}) for place, value in enumerate(values)]
        for values in (before, after)
    ]
    change = metric_changes(samples[1], samples[0])["own f"]
    changes = [now - start for now, start in zip(after, before, strict=True)]
    half = student.isf(0.025, 3) * statistics.stdev(changes) / math.sqrt(4)
    assert change.value == pytest.approx(statistics.mean(changes))
    assert (change.low, change.high) == pytest.approx((change.value - half, change.value + half))


def test_lm_evals_change_is_that_of_its_samples(by_lm_eval: tuple[Path, Evaluation]) -> None:
    start, tuned = by_lm_eval[1].models
    after, before = (
        [sample.metrics["acc"] for sample in model.samples] for model in (tuned, start)
    )
    change = tuned.metric_changes(start)["choice acc"]
    assert after != before
    assert change == share_change(after, before, "share of choice acc")


def test_a_sample_without_a_value_has_no_part_in_the_change() -> None:
    before = [
        harness_sample("t", 0, {"f": 0.25}),
        harness_sample("t", 1, {}),
        harness_sample("t", 2, {"f": 0.5}),
    ]
    after = [
        harness_sample("t", 0, {"f": 0.5}),
        harness_sample("t", 1, {"f": 9.0}),
        harness_sample("t", 2, {"f": 0.75}),
    ]
    assert metric_changes(after, before)["t f"].value == pytest.approx(0.25)


def test_other_samples_are_not_compared() -> None:
    with pytest.raises(UserError, match="not given the same samples"):
        metric_changes(
            [harness_sample("t", 0, {"f": 1.0}, "b")], [harness_sample("t", 0, {"f": 1.0}, "a")]
        )


def test_two_tasks_of_one_title_are_told_apart() -> None:
    measured = metrics(
        [harness_sample("a.py@t", 0, {"f": 1.0}), harness_sample("b.py@t", 0, {"f": 0.0})]
    )
    assert list(measured) == ["lm-eval a.py@t f", "lm-eval b.py@t f"]
