"""A finite world of prompts and short responses: three distributions, and text drawn from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trimtab.config.data_source import DataSource
from trimtab.errors import UserError
from trimtab.results.files import read_arrays, read_if_whole, write_arrays, write_json_lines
from trimtab.theory.world import Array, Distribution, context_overlap

WORLD_FILE = "world.npz"

ASKERS = ("student", "nurse", "driver", "cook")
SENSITIVE_TOPICS = ("locks", "medicine", "fire", "chemistry")
EVERYDAY_TOPICS = ("weather", "bread", "music", "chess")
MANNERS = ("kindly", "plainly", "briefly", "firmly")
ACTS = ("decline", "explain", "redirect", "answer")

# One word each: a tiny model then learns the table of responses within a hundred steps, and what
# it is measured to give up is the constraint's doing rather than its own slowness.
CONTEXTS = tuple(
    f"{asker}-asks-about-{topic}"
    for topic in (*SENSITIVE_TOPICS, *EVERYDAY_TOPICS)
    for asker in ASKERS
)
RESPONSES = tuple(f"{manner} {act}" for manner in MANNERS for act in ACTS)
TOKENS_PER_RESPONSE = 3
"""Two words and the end of the sequence."""

_SENSITIVE = np.array([any(topic in text for topic in SENSITIVE_TOPICS) for text in CONTEXTS])


@dataclass(frozen=True, eq=False)
class World:
    """D_s, every D_ŝ and every D_f over the same N contexts and V responses.

    The original and all proxies have the sensitive contexts, evenly; a proxy answers as the
    original does with probability 1 − d and otherwise as another teacher does, so that
    TV(D_s, D_ŝ) grows in proportion to d. A task of overlap w has the mass w on the sensitive
    contexts and the rest on everyday ones, and answers in a third way throughout.
    """

    original: Distribution
    safety: Mapping[str, Distribution]
    task: Mapping[str, Distribution]
    tokens_per_response: float = TOKENS_PER_RESPONSE


def make_world(
    dissimilarity: Mapping[str, float], overlap: Mapping[str, float], seed: int = 0
) -> World:
    """The world with a proxy for each `dissimilarity` d and a task for each `overlap` w, in [0, 1].

    >>> world = make_world({"near": 0.1, "far": 0.6}, {"half": 0.5})
    >>> context_overlap(world.task["half"], world.safety["near"])
    0.5
    """
    generator = np.random.default_rng(seed)
    ours, theirs, tasks = (_conditional(generator) for _ in range(3))
    on_sensitive = _SENSITIVE / _SENSITIVE.sum()
    on_everyday = ~_SENSITIVE / (~_SENSITIVE).sum()
    return World(
        original=Distribution(on_sensitive, ours),
        safety={
            name: Distribution(on_sensitive, (1 - d) * ours + d * theirs)
            for name, d in dissimilarity.items()
        },
        task={
            name: Distribution(w * on_sensitive + (1 - w) * on_everyday, tasks)
            for name, w in overlap.items()
        },
    )


def write_data(
    world: World, folder: Path, rows: int, seed: int = 0, replace: bool = False
) -> tuple[DataSource, dict[str, DataSource], dict[str, DataSource]]:
    """Sources for original, safety and task, with `rows` draws each to train on, under `folder`.

    The held-out rows are the whole distribution, every pair with its probability, so a loss on
    them is exact.

    Raises:
        UserError: the folder holds another world, and `replace` is false, or other data.
    """
    existing = load_world(folder)
    for name in ("data", "base"):  # the rows, and the model that a demo puts beside them
        if not (folder / WORLD_FILE).exists() and (folder / name).exists():
            raise UserError(f"{folder / name} is there, and no world is. Give another --out.")
    if existing is not None and not replace and not _same_worlds(existing, world):
        raise UserError(
            f"{folder} holds another world, which its points were measured in. Give another --out, "
            "or --restart to move aside what is there."
        )
    generator = np.random.default_rng(seed)
    (folder / "data").mkdir(parents=True, exist_ok=True)
    _save(world, folder)

    def source(name: str, distribution: Distribution, overlap: float | None = None) -> DataSource:
        draws, whole = f"data/{name}.jsonl", f"data/{name}-whole.jsonl"
        write_json_lines(folder / draws, _draws(distribution, rows, generator))
        write_json_lines(folder / whole, _pairs(distribution))
        return DataSource(
            draws,
            held_out=whole,
            repeats=True,
            lowest_loss=distribution.entropy / world.tokens_per_response,
            context_overlap=overlap,
        )

    some_proxy = next(iter(world.safety.values()))
    return (
        source("original", world.original),
        {name: source(f"safety-{name}", proxy) for name, proxy in world.safety.items()},
        {
            name: source(f"task-{name}", task, context_overlap(task, some_proxy))
            for name, task in world.task.items()
        },
    )


def load_world(folder: Path) -> World | None:
    """The world that `write_data` left in `folder`; None where there is none or, with a word, a
    damaged file."""
    return read_if_whole(folder / WORLD_FILE, _read_world, "the exact limit is not known")


def _read_world(path: Path) -> World:
    arrays = read_arrays(path)

    def of_role(role: str) -> dict[str, Distribution]:
        names = [key.split("|")[1] for key in arrays if key.startswith(f"{role}|")]
        return {
            name: Distribution(
                arrays[f"{role}|{name}|contexts"], arrays[f"{role}|{name}|responses"]
            )
            for name in dict.fromkeys(names)
        }

    return World(
        of_role("original")[""], of_role("safety"), of_role("task"), float(arrays["tokens"])
    )


def _save(world: World, folder: Path) -> None:
    arrays = {"tokens": np.array(world.tokens_per_response), **_arrays(world)}
    write_arrays(folder / WORLD_FILE, arrays)


def _same_worlds(first: World, second: World) -> bool:
    ours, theirs = _arrays(first), _arrays(second)
    return ours.keys() == theirs.keys() and all(
        np.array_equal(array, theirs[name]) for name, array in ours.items()
    )


def _arrays(world: World) -> dict[str, Array]:
    roles = {"original": {"": world.original}, "safety": world.safety, "task": world.task}
    return {
        f"{role}|{name}|{part}": getattr(distribution, part)
        for role, distributions in roles.items()
        for name, distribution in distributions.items()
        for part in ("contexts", "responses")
    }


def _conditional(generator: np.random.Generator) -> Array:
    # A tenth is spread evenly, which bounds −log P by log(10 V): about 5 nats per response.
    peaked = generator.dirichlet(np.full(len(RESPONSES), 0.3), size=len(CONTEXTS))
    conditional: Array = 0.9 * peaked + 0.1 / len(RESPONSES)
    return conditional


def _draws(
    distribution: Distribution, count: int, generator: np.random.Generator
) -> list[dict[str, object]]:
    joint = distribution.joint()
    pairs = generator.choice(joint.size, size=count, p=joint.ravel() / joint.sum())
    return [_record(*divmod(int(pair), len(RESPONSES))) for pair in pairs]


def _pairs(distribution: Distribution) -> list[dict[str, object]]:
    joint = distribution.joint()
    return [
        {**_record(int(x), int(y)), "weight": float(joint[x, y])} for x, y in np.argwhere(joint > 0)
    ]


def _record(context: int, response: int) -> dict[str, object]:
    return {"prompt": CONTEXTS[context], "response": RESPONSES[response]}
