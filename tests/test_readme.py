"""The README's examples, and the page's that describes an experiment's file, as they stand."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from trimtab.cli import app
from trimtab.config.yaml_io import parse_experiment
from trimtab.models import save_tiny_llama

README = Path(__file__).parent.parent / "README.md"
EXPERIMENT = README.parent / "docs" / "reference" / "experiment.md"


def test_the_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    save_tiny_llama(["ask", "tell", "no", "yes"], tmp_path / "MODEL", seed=0)
    template = "{% for message in messages %}{{ message.content + ' ' }}{% endfor %}"
    (tmp_path / "MODEL/chat_template.jinja").write_text(template)
    for role, response in (("task", "yes yes"), ("refusals", "no no")):
        rows = [{"prompt": "ask " * (1 + n % 3), "response": response} for n in range(12)]
        (tmp_path / f"{role}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    exec(compile(example.replace("max_steps=200", "max_steps=3"), "README", "exec"), {})
    assert (tmp_path / "run/model/adapter_model.safetensors").exists()


def test_the_experiments_file_is_read_with_what_may_be_added() -> None:
    experiment, *more = re.findall(r"```yaml\n(.*?)```", EXPERIMENT.read_text("utf-8"), re.DOTALL)
    whole = yaml.safe_load(experiment)
    for block in more:
        for section, settings in yaml.safe_load(block).items():
            whole[section] = whole.get(section, {}) | settings
    del whole["train"]["steps"]  # one block says how many epochs instead
    del whole["train"]["lora_rank"]  # and the adapter's rank in PEFT's words
    parsed = parse_experiment(yaml.safe_dump(whole), EXPERIMENT.name)
    assert parsed.answers is not None
    assert parsed.answers.judges == ("qwen3guard", "granite-guardian")
    assert parsed.train.epochs == 2


def test_the_output_that_is_quoted_is_what_the_command_prints() -> None:
    text = README.read_text(encoding="utf-8")
    (quoted,) = re.findall(r"```\n(Task alpaca.*?)```", text, re.DOTALL)
    printed = CliRunner().invoke(
        app, ["suggest", str(README.parent / "docs/reproduction/smollm2"), "--budget", "0.05"]
    )
    assert printed.output.replace(f"{README.parent}/", "").startswith(quoted)
