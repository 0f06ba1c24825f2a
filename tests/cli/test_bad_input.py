"""A property of every command: bad flags, files and experiments end in one line, or are harmless.

Each test draws the same few every time; BAD_INPUTS=100, as in `make bad-input`, so many others.
"""

from __future__ import annotations

import gzip
import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.cli.test_one_line import UNSEEN, invoke

COUNT = int(os.environ.get("BAD_INPUTS", "12"))
SEEN: Counter[str] = Counter()

drawn = settings(
    max_examples=COUNT,
    deadline=None,
    database=None,
    derandomize="BAD_INPUTS" not in os.environ,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module", autouse=True)
def _print_seen() -> Iterator[None]:
    yield
    print(dict(SEEN))


def harmless(test: str, *command: object) -> int:
    """Run a command; it may refuse in one line or do its work, and nothing else."""
    shown = invoke(*command)
    if shown.exception is not None and not isinstance(shown.exception, SystemExit):
        raise AssertionError(f"{command}: {shown.exception!r}") from shown.exception
    assert shown.exit_code in (0, 1, 2), (command, shown.output)
    assert not UNSEEN.search(shown.output), (command, shown.output)
    assert "Traceback" not in shown.output
    if shown.exit_code:
        last = shown.output.splitlines()[-1]
        assert last.startswith(("trimtab: ", "Error: ")), (command, shown.output)
    SEEN[f"{test}: {'refused' if shown.exit_code else 'accepted'}"] += 1
    return shown.exit_code


NUMBERS = ["0", "-1", "1", "-0.0", "nan", "-nan", "inf", "-inf", "1e999", "1e-320", "4294967296"]
NUMBERS += [
    "99999999999999999999",
    "0x10",
    "1_0",
    "½",
    "",
    " ",
    "true",
    "x",
    "1,5",
    "\x1b[31m",
    "[/]",
]
TEXTS = [
    "",
    " ",
    ".",
    "/",
    "..",
    "~",
    "m\x1b[31m",
    "[/red]",
    "no such",
    "a" * 300,
    "\udcff",
    "-",
    "a=b",
]
TEXTS += [
    "-",
    "a=b",
    "/dev/null",
    "/proc/self/mem",
    "float16",
    "kl",
    "Alignment-Loss",
    "harmful",
    "=",
    "x=\n",
]

TRAIN = "penalty radius budget steps batch-size learning-rate lora-rank max-prompt max-response"
TRAIN += " held-out-rows checkpoint-every seed"
DIAL = "safest-penalty capable-penalty steps batch-size learning-rate lora-rank max-prompt seed"
WORDS = "model task safety original case precision task-where safety-where original-where"
WORDS += " sft lora schedule"

MAY_BE: dict[str, Callable[[float], bool]] = {
    "penalty": lambda x: 0 <= x < math.inf,
    "radius": lambda x: x > 0,
    "budget": lambda x: x > -math.inf,
    "learning-rate": lambda x: 0 < x < math.inf,
    "safest-penalty": lambda x: 0 < x < math.inf,
    "capable-penalty": lambda x: 0 < x < math.inf,
    "seed": lambda x: 0 <= x < 2**32,
}
"""What is possible, said a second time and without the program's ranges; others are counts."""


def is_possible(option: str, value: Any) -> bool:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return False
    return MAY_BE.get(option, lambda x: 1 <= x < math.inf)(number)


@drawn
@given(
    numbers=st.dictionaries(st.sampled_from(TRAIN.split()), st.sampled_from(NUMBERS), max_size=3),
    words=st.dictionaries(st.sampled_from(WORDS.split()), st.sampled_from(TEXTS), max_size=1),
)
def test_any_flags_of_train(world: Path, numbers: dict[str, str], words: dict[str, str]) -> None:
    data = world / "data"
    base = {"model": world / "base", "task": data / "task-shared.jsonl", "out": world / "o"}
    base |= {"safety": data / "safety-near.jsonl"} | words
    options = [f"--{name}={value}" for name, value in (base | numbers).items()]
    if harmless("train", "train", "--dry-run", *options) == 0:
        assert all(is_possible(name, value) for name, value in numbers.items()), options


@drawn
@given(numbers=st.dictionaries(st.sampled_from(DIAL.split()), st.sampled_from(NUMBERS), max_size=3))
def test_any_flags_of_a_dial(world: Path, numbers: dict[str, str]) -> None:
    data = world / "data"
    base = {"model": world / "base", "task": data / "task-shared.jsonl", "out": world / "o"}
    base |= {"safety": data / "safety-near.jsonl"}
    options = [f"--{name}={value}" for name, value in (base | numbers).items()]
    if harmless("dial", "dial", "train", "--dry-run", *options) == 0:
        assert all(is_possible(name, value) for name, value in numbers.items()), options


OTHER_OPTIONS = ["model", "task", "safety", "out", "budget", "rows", "drop", "knob", "seed"]
OTHER_OPTIONS += ["prompts", "where"]


@drawn
@given(
    command=st.sampled_from(
        ["audit", "proxy", "suggest", "repair", "evaluate", "bounds", "dial curve"]
    ),
    words=st.lists(st.sampled_from([*TEXTS, *NUMBERS]), min_size=1, max_size=4),
    options=st.lists(
        st.sampled_from(
            [
                "model",
                "task",
                "safety",
                "out",
                "budget",
                "rows",
                "drop",
                "knob",
                "seed",
                "prompts",
                "where",
            ]
        ),
        max_size=4,
    ),
)
def test_any_arguments_of_other_commands(
    world: Path,
    command: str,
    words: list[str],
    options: list[str],
    monkeypatch_module: None,
) -> None:
    filled = [f"--{name}={words[place % len(words)]}" for place, name in enumerate(options)]
    harmless(command, *command.split(), *filled, *words[:1])


@pytest.fixture
def monkeypatch_module(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (world / "elsewhere").mkdir(exist_ok=True)
    monkeypatch.chdir(world / "elsewhere")


HUGE = 10**400
JUNK = st.one_of(
    st.sampled_from(
        [None, True, False, 0, -1, 1, 2**63, 10**400, 0.5, math.nan, math.inf, -math.inf]
    ),
    st.sampled_from(["", "x", "nan", "\0", "\x1b[31m", "1e-3", "[/red]", "a" * 300, "\ud83d"]),
    st.sampled_from([[], {}, [[]], [None], {"a": 1}, {"": ""}, [{}], [math.nan], [-1], ["x"]]),
)

POSSIBLE: dict[str, Callable[[float], bool]] = {
    "learning_rate": lambda x: 0 < x < math.inf,
    "safety_share": lambda x: 0 < x < 1,
    "lora_alpha": lambda x: 0 < x < math.inf,
    "max_grad_norm": lambda x: 0 <= x < math.inf,
    "warmup": lambda x: 0 <= x < 100,
    "held_out": lambda x: 0 < x < 1,
    "lowest_loss": lambda x: 0 <= x < math.inf,
    "context_overlap": lambda x: 0 <= x <= 1,
    "landscape_rows": lambda x: 0 <= x < 2**31,
    "split_seed": lambda x: 0 <= x < 2**32,
}
COUNTS = "steps batch_size accumulation validation_rows lora_rank checkpoint_every rows"
COUNTS += " held_out_rows tokens_per_batch resamples prompt response"
POSSIBLE |= dict.fromkeys(COUNTS.split(), lambda x: 1 <= x < 2**31)


def places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    inside = (
        node.items()
        if isinstance(node, dict)
        else enumerate(node if isinstance(node, list) else [])
    )
    for key, value in inside:
        yield from places(value, (*path, key))


@drawn
@given(data=st.data(), junk=JUNK, is_key=st.booleans())
def test_any_value_in_an_experiment(
    world: Path, data: st.DataObject, junk: Any, is_key: bool
) -> None:
    experiment = yaml.safe_load((world / "experiment.yaml").read_text())
    experiment["train"] |= {"lora_alpha": 2.0, "lora_rank": 2, "checkpoint_every": 5}
    experiment["train"]["sft"] = {"weight_decay": 0.1, "optim": "adamw_torch", "report_to": "none"}
    experiment["train"]["lora"] = {"target_modules": ["q_proj"], "lora_dropout": 0.1}
    experiment["answers"] = {"harmful": {"path": "data/safety-near.jsonl"}, "tokens": 4}
    *path, last = data.draw(st.sampled_from(list(places(experiment))))
    node = experiment
    for key in path:
        node = node[key]
    if is_key and isinstance(node, dict):
        node[junk if isinstance(junk, str | int | float) else str(junk)] = node.pop(last)
    else:
        node[last] = junk
    (world / "odd.yaml").write_bytes(yaml.safe_dump(experiment).encode())
    accepted = harmless("yaml", "sweep", world / "odd.yaml", "--out", world / "o", "--dry-run") == 0
    if accepted and not is_key and last in POSSIBLE and junk is not None:
        assert POSSIBLE[last](float(junk)), (last, junk)


@drawn
@given(text=st.one_of(st.text(max_size=40), st.binary(max_size=40)), place=st.floats(0, 1))
def test_any_text_in_an_experiments_file(world: Path, text: str | bytes, place: float) -> None:
    whole = (world / "experiment.yaml").read_bytes()
    inserted = text.encode(errors="surrogatepass") if isinstance(text, str) else text
    at = int(place * len(whole))
    (world / "odd.yaml").write_bytes(whole[:at] + inserted + whole[at:])
    harmless("text", "sweep", world / "odd.yaml", "--out", world / "o", "--dry-run")


SMALL_JUNK = JUNK.filter(lambda value: value != HUGE)
ROWS = st.builds(
    lambda prompt, response: json.dumps({"prompt": prompt, "response": response}).encode(),
    SMALL_JUNK,
    SMALL_JUNK,
)
LINES = st.sampled_from([b"prompt,response", b'"', b"[", b"{}", b"null", b"\xef\xbb\xbf", b"PAR1"])


@drawn
@given(
    kind=st.sampled_from(["jsonl", "json", "csv", "parquet", "jsonl.gz", "csv.gz"]),
    lines=st.lists(st.one_of(st.binary(max_size=30), ROWS, LINES), max_size=5),
)
def test_any_data(world: Path, kind: str, lines: list[bytes]) -> None:
    path = world / f"odd.{kind}"
    whole = b'{"prompt": "%d", "response": "b a"}'
    header = {"csv": [b"prompt,response"], "jsonl": [whole % number for number in range(9)]}
    content = b"\n".join([*header.get(kind.split(".")[0], []), *lines])
    path.write_bytes(gzip.compress(content) if kind.endswith("gz") and len(lines) % 3 else content)
    data = world / "data"
    role = ("task", "safety")[len(lines) % 2]
    counterpart = {"task": data / "safety-near.jsonl", "safety": data / "task-shared.jsonl"}[role]
    roles = {role: path, ("safety" if role == "task" else "task"): counterpart}
    options = [f"--{name}={value}" for name, value in roles.items()]
    harmless(
        "data", "train", "--model", world / "base", *options, "--out", world / "o", "--dry-run"
    )


MODEL_FILES = ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"]


@drawn
@given(
    name=st.sampled_from([*MODEL_FILES, "generation_config.json"]),
    text=st.binary(max_size=20),
    place=st.floats(0, 1),
    cut=st.booleans(),
)
def test_any_bytes_in_a_model(world: Path, name: str, text: bytes, place: float, cut: bool) -> None:
    model = world / "odd-model"
    shutil.rmtree(model, ignore_errors=True)
    shutil.copytree(world / "base", model)
    whole = (model / name).read_bytes()
    at = int(place * len(whole))
    (model / name).write_bytes(whole[:at] + text + (b"" if cut else whole[at:]))
    prompts = world / "data" / "safety-near.jsonl"
    (world / "odd-proxy.jsonl").unlink(missing_ok=True)
    arguments = (
        "--prompts",
        prompts,
        "--out",
        world / "odd-proxy.jsonl",
        "--max-prompt",
        16,
        "--max-response",
        1,
    )
    harmless("model", "proxy", "--model", model, *arguments)


RESULT_FILES = ["points.jsonl", "experiment.yaml", "data.json"]


@drawn
@given(
    name=st.sampled_from(RESULT_FILES),
    text=st.one_of(st.binary(max_size=20), st.sampled_from([b"{}\n", b"null", b"[]\n", b"NaN"])),
    place=st.floats(0, 1),
    cut=st.booleans(),
    command=st.sampled_from([("bounds",), ("suggest", "--budget", "0.1")]),
)
def test_any_bytes_in_results(
    world: Path,
    name: str,
    text: bytes,
    place: float,
    cut: bool,
    command: tuple[str, ...],
) -> None:
    folder = world / "odd-results"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(world / "done", folder)
    whole = (folder / name).read_bytes()
    at = int(place * len(whole))
    (folder / name).write_bytes(whole[:at] + text + (b"" if cut else whole[at:]))
    harmless("results", command[0], folder, *command[1:])
