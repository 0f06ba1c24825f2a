"""Facts about methods after training, on adapters and on whole models."""

from __future__ import annotations

import json
import re
import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from tests.architectures import gpt2, llama
from tests.train import tiny
from trimtab import UserError
from trimtab.analysis.labels import change_in_words
from trimtab.cli import app
from trimtab.config.data_source import DataSource
from trimtab.models import (
    adapter_base,
    are_same_weights,
    load_model,
    name_base_portably,
    places,
    save_tiny_llama,
)
from trimtab.results.checksums import changed_files, sha256_of
from trimtab.runner.post_hoc import Interpolated, _Pair, interpolate_to_budget, repair_saved
from trimtab.runner.saved_models import written_model
from trimtab.train.baselines.interpolation import Interpolation
from trimtab.train.baselines.post_hoc import PostHocMethod
from trimtab.train.baselines.resta import RESTA, dropped
from trimtab.train.baselines.safe_lora import SafeLoRA, linear_weights, onto
from trimtab.train.objectives.endpoints import SAFE, TASK, load_endpoints


class Models:
    """θ before and after aligning, and fine-tuned from there: all weights, and by an adapter."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.aligned, self.tokenizer = tiny.tiny_llama(folder / "model")
        save_tiny_llama(tiny.WORDS, folder / "unaligned", seed=9)
        self.unaligned, _ = load_model(str(folder / "unaligned"))
        self.full = tiny.trained_plainly(tiny.config(folder), folder).model
        self.lora = tiny.trained_plainly(tiny.config(folder), folder, lora=True).model
        for model, name in ((self.full, "full"), (self.lora, "lora")):
            for part in model.modules():
                part.__dict__.pop("forward", None)
            model.save_pretrained(folder / name)
            self.tokenizer.save_pretrained(folder / name)

    def mended(self, repair: PostHocMethod, lora: bool) -> dict[str, torch.Tensor]:
        model = deepcopy(self.lora if lora else self.full)
        return merged(repair.apply(model, self.aligned, self.unaligned))

    def tuned(self, lora: bool) -> dict[str, torch.Tensor]:
        return merged(deepcopy(self.lora if lora else self.full))


def merged(model: Any) -> dict[str, torch.Tensor]:
    if isinstance(model, PeftModel):
        model = model.merge_and_unload()
    return {name: weight.detach() for name, weight in model.named_parameters()}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("models"))


full_and_lora = pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
close = {"atol": 2e-6, "rtol": 1e-4}


@full_and_lora
def test_interpolation_lies_between(models: Models, lora: bool) -> None:
    start, tuned = merged(models.aligned), models.tuned(lora)
    weights = models.mended(Interpolation(0.3), lora)
    for name, weight in weights.items():
        torch.testing.assert_close(weight, 0.3 * start[name] + 0.7 * tuned[name], **close)
    assert max(float((weights[n] - tuned[n]).abs().max()) for n in weights) > 1e-3


@full_and_lora
def test_resta_without_drop_adds_the_whole_direction(models: Models, lora: bool) -> None:
    safe, unsafe = merged(models.aligned), merged(models.unaligned)
    weights, tuned = models.mended(RESTA(0.5, drop=0.0), lora), models.tuned(lora)
    for name, weight in weights.items():
        expected = tuned[name] + 0.5 * (safe[name] - unsafe[name])
        torch.testing.assert_close(weight, expected, **close)


def test_dare_keeps_the_mean_and_drops_its_share() -> None:
    direction = torch.ones(200_000)
    kept_entries = dropped(direction, 0.7, torch.Generator().manual_seed(0))
    assert float((kept_entries == 0).float().mean()) == pytest.approx(0.7, abs=0.01)
    assert float(kept_entries.mean()) == pytest.approx(1.0, abs=0.02)


@full_and_lora
def test_safe_lora_projects_linear_updates_and_touches_nothing_else(
    models: Models, lora: bool
) -> None:
    start, unsafe, tuned = merged(models.aligned), merged(models.unaligned), models.tuned(lora)
    weights = models.mended(SafeLoRA(1.0), lora)
    linear = set(linear_weights(models.aligned))
    assert linear
    for name, weight in weights.items():
        if name in linear and not torch.equal(tuned[name], start[name]):
            v = start[name] - unsafe[name]
            c = v @ v.T / torch.linalg.norm(v)
            torch.testing.assert_close(
                weight, start[name] + c @ (tuned[name] - start[name]), atol=1e-4, rtol=1e-3
            )
        else:
            torch.testing.assert_close(weight, tuned[name], **close)


@full_and_lora
def test_safe_lora_leaves_layers_above_the_threshold(models: Models, lora: bool) -> None:
    tuned = models.tuned(lora)
    for name, weight in models.mended(SafeLoRA(-1.0), lora).items():
        torch.testing.assert_close(weight, tuned[name], **close)


def test_safe_lora_leaves_biases_alone() -> None:
    layer = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.LayerNorm(3))
    assert linear_weights(layer) == {"0.weight": False}


def test_a_product_without_its_matrix_is_the_product() -> None:
    torch.manual_seed(0)
    v, update = torch.randn(6, 4), torch.randn(6, 5)
    torch.testing.assert_close(onto(v, update), (v @ v.T / v.norm()) @ update)


@pytest.mark.parametrize("repair", [RESTA(), SafeLoRA()])
def test_a_missing_unaligned_model_is_an_error(models: Models, repair: PostHocMethod) -> None:
    with pytest.raises(UserError, match="before it was aligned"):
        repair.apply(deepcopy(models.full), models.aligned, None)


def test_a_model_of_another_shape_is_an_error(models: Models, tmp_path: Path) -> None:
    save_tiny_llama(["only", "three", "words"], tmp_path, seed=0)
    three_words, _ = load_model(str(tmp_path))
    with pytest.raises(UserError, match="has no weight"):
        Interpolation().apply(deepcopy(models.full), three_words)


def command(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["repair", *arguments])


@full_and_lora
def test_repair_mends_what_was_saved(models: Models, lora: bool, tmp_path: Path) -> None:
    saved = models.folder / ("lora" if lora else "full")
    aligned = str(models.folder / "model")
    result = command(
        "wise-ft", "--model", str(saved), "--aligned", aligned, "--out", str(tmp_path / "m"),
        "--strength", "0.3",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    model: Any = load_model(aligned)[0]
    if lora:
        model = PeftModel.from_pretrained(model, str(tmp_path / "m"))
    else:
        model = load_model(str(tmp_path / "m"))[0]
    expected = models.mended(Interpolation(0.3), lora)
    for name, weight in merged(model).items():
        torch.testing.assert_close(weight, expected[name], **close)


@pytest.mark.parametrize("change", ["lost", "renamed", "reshaped"])
def test_an_adapter_whose_weights_do_not_fit_is_not_mended(
    models: Models, change: str, tmp_path: Path
) -> None:
    """PEFT would fill what is missing with a new adapter's weights, with a warning at most."""
    shutil.copytree(models.folder / "lora", tmp_path / "lora")
    file = tmp_path / "lora" / "adapter_model.safetensors"
    weights = load_file(file)
    name = sorted(weights)[0]
    weight = weights.pop(name)
    if change == "renamed":
        weights[f"module.{name}"] = weight
    if change == "reshaped":
        weights[name] = weight[:1].clone()
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(UserError, match="its weights are not those of its configuration"):
        repair_saved(
            "wise-ft", 0.3, tmp_path / "lora", str(models.folder / "model"), None, tmp_path / "out"
        )
    assert not (tmp_path / "out").exists()


def safety_rows(file: Path, count: int) -> Path:
    """Rows whose prompts differ."""
    words = tiny.WORDS
    rows = [
        {"prompt": f"{words[n % 30]} {words[n // 30]}", "response": words[(7 * n) % 30]}
        for n in range(count)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_a_trained_model_is_brought_back_to_a_budget(
    kind: str, models: Models, tmp_path: Path
) -> None:
    safety = DataSource(str(safety_rows(tmp_path / "safety.jsonl", 120)))
    start, tuned = str(models.folder / "model"), models.folder / kind

    def brought_to(budget: float) -> Interpolated:
        return interpolate_to_budget(tuned, start, tmp_path / f"at-{budget:g}", budget, safety)

    whole = brought_to(50.0)
    assert whole.share == 0.0
    assert whole.rise is not None
    limit = 0.5 * whole.rise.chosen_rise.high
    assert limit > 0
    within = brought_to(limit)
    assert 0 < within.share < 1
    assert within.distance < whole.distance
    assert within.rise is not None
    assert 0.8 * limit < within.rise.chosen_rise.high <= limit
    folder = tmp_path / f"at-{limit:g}"
    assert changed_files(folder) == []
    card = (folder / "README.md").read_text()
    assert "## Before and after" in card
    assert change_in_words(within.rise.rise) in card
    again = interpolate_to_budget(folder, start, tmp_path / "again", 50.0, safety)
    assert again.rise is not None
    assert again.rise.rise.value == pytest.approx(within.rise.rise.value, abs=1e-5)


def test_repair_says_what_flatters_it_and_what_it_left_alone(
    models: Models, tmp_path: Path
) -> None:
    safety = safety_rows(tmp_path / "safety.jsonl", 60)
    tuned, start = tmp_path / "tuned", str(models.folder / "model")
    shutil.copytree(models.folder / "full", tuned)

    def repaired(name: str) -> Result:
        return command(
            "wise-ft", "--model", str(tuned), "--aligned", start, "--out", str(tmp_path / name),
            "--budget", "50", "--safety", str(safety),
        )  # fmt: skip

    result = repaired("first")
    assert result.exit_code == 0, result.stderr
    assert "share is 0: the model keeps to it as it is, and the new one is a copy." in result.output
    warning = "is among the data that the model was trained on, by its card"
    assert warning not in result.stderr
    for number, rows_to_train_on in enumerate(("48", "none")):
        line = f"| safety | `s` | `s.jsonl` | {rows_to_train_on} | 12 | `{sha256_of(safety)}` |"
        (tuned / "README.md").write_text(line)
        assert (warning in repaired(f"again-{number}").stderr) == (rows_to_train_on == "48")
    same = command("wise-ft", "--model", start, "--aligned", start, "--out", str(tmp_path / "same"))
    assert "That is the aligned model itself" in same.output


def test_models_between_two_lie_on_one_base(models: Models) -> None:
    """At 7B there is room for no copy of it at each look."""
    pair = _Pair(models.folder / "lora", str(models.folder / "model"))
    before = [weight.clone() for weight in pair.start.parameters()]
    own = {weight.data_ptr() for weight in pair.start.parameters()}
    halfway, whole = pair.at(0.5), pair.at(1.0)
    for model in (halfway, whole):
        base = [weight for name, weight in model.named_parameters() if "lora_" not in name]
        assert {weight.data_ptr() for weight in base} == own
    for name, weight in whole.named_parameters():
        if "lora_B" in name:
            torch.testing.assert_close(halfway.get_parameter(name), 0.5 * weight)
    merged = pair.tuned(base_of_its_own=True).merge_and_unload()
    assert own.isdisjoint(weight.data_ptr() for weight in merged.parameters())
    for weight, old in zip(pair.start.parameters(), before, strict=True):
        assert torch.equal(weight, old)


def test_a_budget_says_what_it_found(models: Models, tmp_path: Path) -> None:
    safety = safety_rows(tmp_path / "safety.jsonl", 40)
    pair = ["--model", str(models.folder / "full"), "--aligned", str(models.folder / "model")]
    options = ["--budget", "50", "--safety", str(safety), "--out", str(tmp_path / "out")]
    result = command("wise-ft", *pair, *options)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("The aligned model's share is 0: the model keeps to it")
    assert re.search(
        r"  within the budget; only 0\.\d % \[.* %\] of it is spent\.\n", result.stdout
    )
    few = safety_rows(tmp_path / "few.jsonl", 5)
    result = command(
        "wise-ft", *pair, "--budget", "1", "--safety", str(few), "--out", str(tmp_path / "o")
    )
    assert result.exit_code == 2
    assert "5 prompts are too few to choose by one half" in result.stderr


def adapter_on(base: str | None, models: Models, folder: Path) -> Path:
    """The adapter of `models`, which says that it is on `base`."""
    shutil.copytree(models.folder / "lora", folder)
    config = folder / "adapter_config.json"
    record = json.loads(config.read_text())
    config.write_text(json.dumps({**record, "base_model_name_or_path": base}))
    return folder


def test_an_adapter_is_not_mended_on_a_model_that_is_not_its_base(
    models: Models, tmp_path: Path
) -> None:
    """It fits, and whoever loads what comes of it gets a model that was never measured."""
    base, other = str(models.folder / "model"), str(models.folder / "unaligned")
    adapter = adapter_on(base, models, tmp_path / "adapter")
    result = command(
        "wise-ft", "--model", str(adapter), "--aligned", other, "--out", str(tmp_path / "out")
    )
    assert result.exit_code == 2
    assert f"{adapter} is an adapter on {base}, and the aligned model {other}" in result.stderr
    assert f"Give --aligned {base}." in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("copy", ["of its files", "in other files"])
def test_an_adapter_is_mended_on_a_copy_of_its_base(
    models: Models, copy: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = shutil.copytree(models.folder / "model", tmp_path / "base")
    if copy == "in other files":
        models.aligned.save_pretrained(base, max_shard_size="200KB")
        (base / "model.safetensors").unlink()
    adapter = adapter_on(str(base), models, tmp_path / "adapter")
    aligned = str(models.folder / "model")
    assert repair_saved("wise-ft", 0.3, adapter, aligned, None, tmp_path / "out") > 0
    assert not [record for record in caplog.records if "is not known" in record.message]


@pytest.mark.parametrize("base", ["gone", "org/model", None])
def test_an_adapter_whose_base_is_not_at_hand_is_mended_with_a_word(
    models: Models, base: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    named = str(tmp_path / base) if base == "gone" else base
    adapter = adapter_on(named, models, tmp_path / "adapter")
    aligned = str(models.folder / "model")
    assert repair_saved("wise-ft", 0.3, adapter, aligned, None, tmp_path / "out") > 0
    (word,) = [message for message in caplog.messages if "is not known" in message]
    assert f"whether {aligned} has the same weights is not known" in word


def test_what_is_made_of_an_adapter_on_smollm2_is_on_smollm2(
    models: Models,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Others are told the Hub's model, which has other weights than those it was measured on."""
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(places, "_packaged_smollm2", lambda: Path("smollm2.gguf"))
    smollm2 = shutil.copytree(models.folder / "model", tmp_path / "cache/smollm2")
    dial, on_hub = tmp_path / "dial", "HuggingFaceTB/SmolLM2-135M-Instruct"
    for end in (TASK, SAFE):
        adapter_on(str(smollm2), models, dial / end)
    name_base_portably(dial)
    repair_saved("wise-ft", 0.3, dial / TASK, "smollm2", None, tmp_path / "repaired")
    assert not [message for message in caplog.messages if "is not known" in message]
    with written_model(tmp_path / "between") as unfinished:
        load_endpoints(dial, load_model("smollm2")[0]).save_at(0.5, unfinished, merged=False)
    for made in ("repaired", "between"):
        (config,) = (tmp_path / made).rglob("adapter_config.json")
        assert json.loads(config.read_text())["base_model_name_or_path"] == on_hub
        assert adapter_base(str(config.parent)) == "smollm2"


def test_two_hub_ids_are_told_by_their_names(models: Models) -> None:
    for other, is_same in (("org/Model", True), ("org/other", False)):
        assert are_same_weights("org/model", other, models.aligned) is is_same


WISE_FT = ["wise-ft", "--model", "m", "--aligned", "a", "--out", "o"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing", "--model", "m", "--aligned", "a", "--out", "o"], "mends no model"),
        (["resta", "--model", "m", "--aligned", "a", "--out", "o"], "--unaligned"),
        ([*WISE_FT, "--budget", "0.1"], "Give both --budget and --safety"),
        (
            [*WISE_FT, "--budget", "0", "--safety", "s.jsonl"],
            "--budget is 0.0. Give",
        ),
        ([*WISE_FT, "--budget", "0.1", "--safety", "s.jsonl", "--strength", "1"], "--strength"),
        ([*WISE_FT, "--budget", "0.1", "--safety", "none.jsonl"], "none.jsonl: no such file."),
    ],
)
def test_a_mistaken_repair_is_one_line(arguments: list[str], message: str) -> None:
    result = command(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


ADAPTERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "plain": (llama, {"target_modules": ["q_proj", "down_proj"]}),
    "with biases": (llama, {"target_modules": ["q_proj"], "bias": "all"}),
    "with a LoRA bias": (llama, {"target_modules": ["q_proj"], "lora_bias": True}),
    "with the head as a whole": (
        llama,
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "up_proj"]},
    ),
    "with ranks by layer": (llama, {"target_modules": "all-linear", "rank_pattern": {"v_proj": 1}}),
    "rsLoRA": (llama, {"target_modules": ["q_proj"], "use_rslora": True}),
    "on an embedding": (llama, {"target_modules": ["q_proj", "embed_tokens"]}),
    "on transposed weights": (gpt2, {"target_modules": ["c_attn"], "fan_in_fan_out": True}),
}
REPAIRS = {
    "interpolation": Interpolation(0.3),
    "all of SafeLoRA": SafeLoRA(1.0),
    "SafeLoRA": SafeLoRA(0.3),
    "RESTA": RESTA(0.5, drop=0.0),
}


@pytest.mark.parametrize("kind", ADAPTERS)
@pytest.mark.parametrize("name", REPAIRS)
def test_an_adapter_is_mended_as_its_merged_model_is(name: str, kind: str, tmp_path: Path) -> None:
    """So nothing that an adapter trained is left out, and what is saved is what was mended."""
    make, settings = ADAPTERS[kind]
    aligned, unaligned = make(0), make(1)
    adapted = get_peft_model(make(0), LoraConfig(r=2, task_type="CAUSAL_LM", **settings))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in adapted.parameters():
            if weight.requires_grad:
                weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    whole = deepcopy(adapted).merge_and_unload()
    mended = REPAIRS[name].apply(adapted, aligned, unaligned)
    mended.save_pretrained(tmp_path)
    expected = merged(REPAIRS[name].apply(whole, aligned, unaligned))
    if isinstance(mended, PeftModel):
        saved: Any = PeftModel.from_pretrained(make(0), str(tmp_path))
    else:
        saved = type(mended).from_pretrained(tmp_path)
    for weights in (merged(saved), merged(deepcopy(mended))):
        assert weights.keys() == expected.keys()
        for key, value in weights.items():
            torch.testing.assert_close(value, expected[key], atol=2e-5, rtol=1e-3)
