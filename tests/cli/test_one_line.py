"""Facts about mistakes: whatever is given, a command ends with one line and never a traceback."""

from __future__ import annotations

import ast
import gzip
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet
from typer.testing import CliRunner, Result

import trimtab
from trimtab.cli import app
from trimtab.config.data_source import DataSource, Lengths
from trimtab.config.yaml_io import read_experiment, to_yaml
from trimtab.data.files import read_records
from trimtab.data.rows import Message, Row
from trimtab.errors import UserError, printable
from trimtab.models import load_model, load_tokenizer, model_size

pytestmark = pytest.mark.usefixtures("quiet")

UNSEEN = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\ud800-\udfff]")


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def assert_one_line(result: Result, status: int = 2) -> str:
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == status, result.output
    (line,) = [line for line in result.output.splitlines() if line.startswith("trimtab: ")]
    assert result.output.splitlines()[-1] == line
    assert not UNSEEN.search(line)
    return line


def train(world: Path, *more: object) -> Result:
    data = world / "data"
    arguments = ["train", "--model", world / "base", "--task", data / "task-shared.jsonl"]
    arguments += ["--safety", data / "safety-near.jsonl", "--out", world / "train", "--steps", 1]
    return invoke(*arguments, *more)


@pytest.mark.parametrize(
    "options",
    [
        ("--safety-share", 0.9, "--radius", 0.3),
        ("--safety-target", "kl", "--case", "alignment-parameter"),
        ("--validation-rows", 10),
        ("--validation-rows", 10, "--radius", 0.3),
    ],
)
def test_an_option_without_effect_is_one_line(
    options: tuple[object, ...], world: Path, tmp_path: Path
) -> None:
    line = assert_one_line(train(world, "--out", tmp_path / "out", *options))
    assert line.startswith(f"trimtab: {options[0]} has no ")
    assert not (tmp_path / "out").exists()


# Paths and disks


def odd_paths(folder: Path) -> dict[str, Path]:
    (folder / "file").write_text("x")
    (folder / "folder.jsonl").mkdir()
    if not (folder / "pipe.jsonl").exists():
        os.mkfifo(folder / "pipe.jsonl")
    return {
        "missing": folder / "missing.jsonl",
        "a folder": folder / "folder.jsonl",
        "under a file": folder / "file" / "x.jsonl",
        "too long": folder / f"{'x' * 300}.jsonl",
        "a pipe": folder / "pipe.jsonl",
        "steers a terminal": folder / "\x1b[31m[/red]\n\u202e.jsonl",
        "no Unicode": folder / "\udcff.jsonl",
    }


PATHS = ["missing", "a folder", "under a file", "too long", "a pipe", "steers a terminal"]
PATHS += ["no Unicode"]


@pytest.mark.parametrize("path", PATHS)
def test_a_path_that_cannot_be_read_is_one_line(path: str, world: Path, tmp_path: Path) -> None:
    odd = odd_paths(tmp_path)[path]
    out = ("--out", tmp_path / "out")
    for option in ("--task", "--safety", "--original"):
        assert_one_line(train(world, option, odd, *out, "--dry-run"))
    assert_one_line(train(world, "--model", odd, *out, "--dry-run"))
    assert_one_line(invoke("proxy", "--model", world / "base", "--prompts", odd, *out))
    for command in ("report", "bounds"):
        assert_one_line(invoke(command, odd))
    assert_one_line(invoke("suggest", odd, "--budget", 0.1))
    assert_one_line(invoke("dial", "curve", odd))
    assert_one_line(invoke("repair", "wise-ft", "--model", odd, "--aligned", odd, *out))
    if path != "a pipe":  # a shell's <(…) is an experiment's file that can be read
        assert_one_line(invoke("sweep", odd, *out))


@pytest.mark.parametrize("out", ["a file", "under a file", "too long", "no folder may be here"])
def test_a_path_that_cannot_be_written_is_one_line(out: str, world: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    path = {
        "a file": tmp_path / "file",
        "under a file": tmp_path / "file" / "out",
        "too long": tmp_path / ("x" * 300),
        "no folder may be here": Path("/proc/out"),
    }[out]
    assert_one_line(train(world, "--out", path))
    assert_one_line(invoke("sweep", world / "experiment.yaml", "--out", path))
    assert_one_line(invoke("demo", "--out", path))
    prompts = world / "data" / "safety-near.jsonl"
    if out != "a file":
        arguments = ("--model", world / "base", "--prompts", prompts, "--max-response", 1)
        assert_one_line(invoke("proxy", *arguments, "--out", path))
    assert (tmp_path / "file").read_text() == "x"


@pytest.mark.parametrize("limit", [0, 2_000, 100_000])
def test_a_disk_that_takes_no_more_is_one_line(limit: int, world: Path, tmp_path: Path) -> None:
    data = world / "data"
    command = [sys.executable, "-m", "trimtab.cli", "train", "--model", world / "base"]
    command += ["--task", data / "task-shared.jsonl", "--safety", data / "safety-near.jsonl"]
    command += ["--steps", 1, "--out", tmp_path / "out"]
    result = subprocess.run(
        [str(argument) for argument in command],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        env=os.environ | {"TMPDIR": str(tmp_path)},
        check=False,
    )
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.splitlines()[-1].startswith("trimtab: ")


# YAML

YAML = {
    "binary": b"\x00\x01\x02\xff",
    "Latin-1": "model: é".encode("latin-1"),
    "UTF-16": "model: m".encode("utf-16"),
    "control characters": b"model: a\x07b",
    "a tab": b"model:\n\t- m",
    "nothing": b"",
    "a comment": b"# nothing\n",
    "a list": b"- model: m",
    "a text": b"model",
    "a number": b"3",
    "two documents": b"model: m\n---\nmodel: n\n",
    "a key twice": b"model: m\nmodel: n",
    "a key twice, deep": b"model: m\ntrain: {steps: 1, steps: 2}",
    "an anchor that is not there": b"model: *nowhere",
    "an anchor that holds itself": b"model: &a [*a]",
    "a mapping that holds itself": b"&a {model: *a}",
    "anchors that multiply": "\n".join(
        ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
        + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    ).encode(),
    "nested lists": b"model: " + b"[" * 5_000,
    "nested and closed": b"model: " + b"[" * 5_000 + b"]" * 5_000,
    "nested mappings": b"{a: " * 5_000,
    "an unknown tag": b"model: !made-up m",
    "a program": b"model: !!python/object/apply:os.system ['touch ran']",
    "a bad date": b"model: 2024-99-99",
    "a bad number": b"model: !!int x",
    "a bad float": b"model: !!float x",
    "a bad truth": b"model: !!bool x",
    "a bad time": b"model: !!timestamp x",
    "bad base 64": b"model: !!binary '\xc3\xa9'",
    "an endless number": b"model: " + b"9" * 5_000,
    "a list for a key": b"? [a, b]\n: c",
    "a mapping for a key": b"{{a: b}: c}",
    "a number for a key": b"1: m",
    "nothing for a key": b"~: m",
    "a date for a key": b"2024-01-01: m",
    "a date for a text": b"model: 2024-01-01\ntask: {t: t}\nsafety: {s: s}\ngrid: []",
    "numbers for names": b"model: m\ntask: {1: t}\nsafety: {2: s}\ngrid: []",
    "a merge of nothing": b"<<: 3\nmodel: m",
    "NUL": b'model: "a\\0b"\ntask: {t: t}\nsafety: {s: s}\ngrid: []',
    "escape codes": b'"\\e[31mmodel\\n": m',
    "half a character": b'"\\ud83d": m',
    "too large": b"#" * (5 << 20),
}


@pytest.mark.parametrize("text", YAML.values(), ids=YAML)
def test_a_file_that_is_no_experiment_is_one_line(
    text: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("e.yaml").write_bytes(text)
    line = assert_one_line(invoke("sweep", "e.yaml", "--out", "out"))
    assert line.startswith("trimtab: e.yaml")
    assert len(line) < 1000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e.yaml"]


def test_an_anchor_may_be_used(tmp_path: Path) -> None:
    text = "model: m\ntask: {t: t.jsonl}\nsafety: {s: s.jsonl}\n"
    text += "align: &a {steps: 3}\ntrain: *a\noriginal: o.jsonl\n"
    text += "grid: [{case: alignment-loss, penalties: [1]}]\n"
    (tmp_path / "e.yaml").write_text(text)
    assert read_experiment(tmp_path / "e.yaml").train.steps == 3


# Packed data


def test_a_gzip_bomb_is_refused_before_it_is_large(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.jsonl.gz"
    with gzip.open(bomb, "wb") as file:
        for _ in range(300):
            file.write(bytes(1 << 20))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match="unpacks to more than 100 times its size"):
        read_records(DataSource(str(bomb)))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10


def test_text_that_packs_well_is_read(tmp_path: Path) -> None:
    packed = tmp_path / "rows.jsonl.gz"
    with gzip.open(packed, "wt") as file:
        file.write('{"prompt": "the same", "response": "again"}\n' * 50_000)
    assert len(read_records(DataSource(str(packed)))) == 50_000


def test_a_parquet_bomb_is_refused(tmp_path: Path) -> None:
    table = pyarrow.table(dict.fromkeys(("prompt", "response"), ["x"] * 2_000_000))
    parquet.write_table(table, tmp_path / "b.parquet")
    with pytest.raises(UserError, match="2,000,000 rows in"):
        read_records(DataSource(str(tmp_path / "b.parquet")))


# Models


def changed(name: str, **values: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(config | values))

    return change


def written(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content) and None


def cut(name: str) -> Callable[[Path], None]:
    return lambda folder: os.truncate(folder / name, (folder / name).stat().st_size // 2)


BROKEN = {
    "weights cut short": cut("model.safetensors"),
    "weights not fetched": written("model.safetensors", b"version https://git-lfs.github.com\n"),
    "no weights": written("model.safetensors", b""),
    "weights of another size": changed("config.json", intermediate_size=128),
    "no heads": changed("config.json", num_attention_heads=0),
    "a size that is no number": changed("config.json", hidden_size="wide"),
    "a size below 0": changed("config.json", hidden_size=-4),
    "another kind of model": changed("config.json", model_type="made-up"),
    "no kind of model": written("config.json", b"{}"),
    "a configuration cut short": cut("config.json"),
    "a configuration that is a list": written("config.json", b"[]"),
    "a configuration of bytes": written("config.json", b"\xff\xfe\x00"),
    "a tokenizer cut short": cut("tokenizer.json"),
    "a tokenizer of nothing": written("tokenizer.json", b"{}"),
    "a tokenizer's settings cut short": cut("tokenizer_config.json"),
    "a smaller embedding": changed("config.json", vocab_size=5),
    "no end of a sequence": changed("tokenizer_config.json", eos_token=None, pad_token=None),
    "a template that raises": changed(
        "tokenizer_config.json", chat_template="{{ raise_exception('No such role') }}"
    ),
    "a template that is no template": changed("tokenizer_config.json", chat_template="{% if %}"),
    "a template that divides by 0": changed("tokenizer_config.json", chat_template="{{ 1 / 0 }}"),
    "a template that is a number": changed("tokenizer_config.json", chat_template=3),
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_a_broken_model_is_one_line(
    broken: Callable[[Path], None], world: Path, tmp_path: Path
) -> None:
    shutil.copytree(world / "base", tmp_path / "model")
    broken(tmp_path / "model")
    result = train(world, "--model", tmp_path / "model", "--out", tmp_path / "out")
    assert_one_line(result)


def test_code_that_comes_with_a_model_is_not_run(world: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(world / "base", model)
    witness = tmp_path / "ran"
    (model / "code.py").write_text(f"open({str(witness)!r}, 'w')\nclass A: pass\n")
    kinds = ("AutoConfig", "AutoModelForCausalLM", "AutoTokenizer")
    code = dict.fromkeys(kinds, "code.A")
    changed("config.json", model_type="made-up", auto_map=code)(model)
    for load in (load_model, model_size):
        with pytest.raises(UserError, match="cannot be loaded"):
            load(str(model))
    assert not witness.exists()


def test_remote_code_is_refused_wherever_a_model_is_loaded() -> None:
    loaders = 0
    for file in Path(trimtab.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            owner = node.func.value
            if not (isinstance(owner, ast.Name) and owner.id.startswith("Auto")):
                continue
            loaders += 1
            stated = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert stated.get("trust_remote_code") == "False", f"{file}: line {node.lineno}"
    assert loaders >= 4


def test_rows_that_no_tokenizer_takes_are_one_line(world: Path) -> None:
    from trimtab.data.encoding import encode

    tokenizer = load_tokenizer(str(world / "base"))
    with pytest.raises(UserError, match="half of a surrogate pair"):
        encode([Row((Message("user", "Hi"),), "ok \ud83d")], tokenizer, Lengths())


# Terminals and names

NAMES = ["[/red]", "\\[/b]", "\x1b[31mred", "a\nb", "\u202eabc", "$x^$ ü 日 %s"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_steers_no_terminal(name: str, world: Path, tmp_path: Path) -> None:
    folder = tmp_path / name
    shutil.copytree(world / "done", folder)
    lines = (folder / "points.jsonl").read_text().splitlines()
    renamed = [json.loads(line) | {"task": name, "proxy": name} for line in lines]
    (folder / "points.jsonl").write_text("".join(json.dumps(point) + "\n" for point in renamed))
    for arguments in (("report", folder), ("bounds", folder), ("suggest", folder, "--budget", 9)):
        result = invoke(*arguments)
        if isinstance(result.exception, SystemExit) and result.exit_code == 2:
            assert_one_line(result)
            continue
        assert result.exit_code == 0, result.exception
        assert not UNSEEN.search(result.output)
        joined = "".join(result.output.split())
        assert arguments[0] == "bounds" or "".join(printable(name).split()) in joined
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "\x1b" not in page


def test_a_name_in_a_warning_or_a_plan_steers_no_terminal(world: Path, tmp_path: Path) -> None:
    experiment = read_experiment(world / "experiment.yaml")
    (source,) = experiment.task.values()
    odd = replace(experiment, task={"[/red]\x1b[31m": source}, grid=experiment.grid[:1])
    (tmp_path / "e.yaml").write_text(to_yaml(odd))
    result = invoke("sweep", tmp_path / "e.yaml", "--out", tmp_path / "out", "--dry-run")
    assert result.exit_code == 0, result.output
    assert not UNSEEN.search(result.output)


TERMINALS = {
    "ASCII": {"PYTHONIOENCODING": "ascii"},
    "Latin-1": {"PYTHONIOENCODING": "latin-1"},
    "no locale": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "dumb and narrow": {"TERM": "dumb", "COLUMNS": "10"},
}


@pytest.mark.parametrize("terminal", TERMINALS.values(), ids=TERMINALS)
def test_any_terminal_will_do(terminal: dict[str, str], world: Path) -> None:
    command = [sys.executable, "-m", "trimtab.cli", "bounds", str(world / "done")]
    result = subprocess.run(command, capture_output=True, env=os.environ | terminal, check=False)
    assert result.returncode == 0, result.stderr
    assert b"Theorem" in result.stdout


def test_what_only_reads_results_waits_for_no_torch(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "done", tmp_path / "done")
    commands = [["bounds"], ["suggest", "--budget", "9"], ["status"], ["report"]]
    commands += [["export", "--out", str(tmp_path / "points.csv")]]
    program = (
        "import json, sys\n"
        "from typer.testing import CliRunner\n"
        "from trimtab.cli import app\n"
        "folder, commands = sys.argv[1], json.loads(sys.argv[2])\n"
        "for name, *more in commands:\n"
        "    shown = CliRunner().invoke(app, [name, folder, *more])\n"
        "    assert shown.exit_code == 0, shown.output\n"
        "    assert 'torch' not in sys.modules, name\n"
        "data = ['--model', 'base', '--task', 'data/task-shared.jsonl', '--safety']\n"
        "data += ['data/safety-near.jsonl', '--out', folder + '/mine.yaml']\n"
        "shown = CliRunner().invoke(app, ['init', *data])\n"
        "assert shown.exit_code == 0, shown.output\n"
        "assert 'torch' not in sys.modules\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "done"), json.dumps(commands)]
    subprocess.run(command, check=True, cwd=world)


def test_an_output_that_takes_nothing_is_one_line(world: Path) -> None:
    command = f"{sys.executable} -m trimtab.cli suggest {world / 'done'} --budget 9"
    for ending, statuses in (("> /dev/full", {2}), (">&-", {0}), ("| true", {0})):
        result = subprocess.run(
            ["bash", "-c", f"{command} {ending}"], capture_output=True, text=True, check=False
        )
        assert result.returncode in statuses, (ending, result.stderr)
        assert "Traceback" not in result.stderr
        assert "Exception ignored" not in result.stderr


def test_columns_by_other_names_are_said_in_a_command(world: Path, tmp_path: Path) -> None:
    rows = (world / "data/task-shared.jsonl").read_text().splitlines()
    renamed = (
        {"question": row["prompt"], "answer": row["response"]} for row in map(json.loads, rows)
    )
    file = tmp_path / "renamed.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in renamed))
    plan = (*("--task", file, "--out", tmp_path / "out", "--dry-run"), "--task-columns")
    assert "make no known shape" in assert_one_line(train(world, *plan[:-1]))
    shown = train(world, *plan, "prompt=question", "--task-columns", "response=answer")
    assert shown.exit_code == 0, shown.output
    assert "names no column" in assert_one_line(train(world, *plan, "question"))
    assert "named twice" in assert_one_line(train(world, *plan, "prompt=a", *plan[-1:], "prompt=b"))


def test_a_seed_beside_a_file_to_compare_is_refused(tmp_path: Path) -> None:
    line = assert_one_line(invoke("compare", tmp_path / "experiment.yaml", "--seed", 3))
    assert line.startswith("trimtab: --seed is of the small world.")
