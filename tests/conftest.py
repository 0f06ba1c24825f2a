"""What every test shares: no network, no user's cache, quiet libraries."""

from __future__ import annotations

import gc
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("untimed", deadline=None)  # no test is of how fast a machine is
settings.load_profile("untimed")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="trimtab-test-hf-")
os.environ["TOKENIZERS_PARALLELISM"] = "false"


_LONGEST_FIRST = (  # those that start several processes beside others that do not
    "tests/runner/test_cluster.py",
    "tests/runner/test_sweep.py",
    "tests/runner/test_processes.py",
    "tests/cli/test_one_line.py",
    "tests/train/test_sharded_weights.py",
    "tests/audit/test_audit.py",
    "tests/runner/test_launched_commands.py",
    "tests/train/test_objectives_by_batches.py",
    "tests/train/baselines/test_post_hoc.py",
    "tests/runner/test_shared_base.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, so that no core waits at the end for another's file."""

    def place(item: pytest.Item) -> int:
        file = item.nodeid.partition("::")[0]
        return _LONGEST_FIRST.index(file) if file in _LONGEST_FIRST else len(_LONGEST_FIRST)

    items.sort(key=place)


def pytest_collection_finish() -> None:
    """Spare what was imported: Transformers collects garbage after every training."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def quiet() -> None:
    """Libraries say nothing of their own."""
    from trimtab.models import quiet_libraries

    quiet_libraries()


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, its data, an experiment, and what came of it."""
    from trimtab.config.experiment import Block, Experiment, Measuring, Training
    from trimtab.config.yaml_io import to_yaml
    from trimtab.data.synthetic import CONTEXTS, RESPONSES, make_world, write_data
    from trimtab.models import quiet_libraries, save_tiny_llama
    from trimtab.runner.sweep import SilentWatcher, sweep

    quiet_libraries()
    folder = tmp_path_factory.mktemp("world")
    original, safety, task = write_data(make_world({"near": 0.1}, {"shared": 1.0}), folder, rows=80)
    save_tiny_llama([*CONTEXTS, *RESPONSES], folder / "base", seed=0)
    experiment = Experiment(
        model=str(folder / "base"),
        original=original,
        safety=safety,
        task=task,
        train=Training(steps=1, batch_size=4),
        grid=(Block("alignment-loss", (0.0, 1.0)), Block("alignment-parameter", radii=(0.5,))),
        measure=Measuring(resamples=20),
        data_root=str(folder),
    )
    (folder / "experiment.yaml").write_text(to_yaml(experiment))
    sweep(experiment, folder / "done", SilentWatcher())
    return folder
