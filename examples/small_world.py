"""What the other examples start from: the built-in world as rows, and a tiny model aligned on it.

The world has 32 prompts and 16 answers whose probabilities are all known. A proxy stands in for the
original safety data; the task answers the same prompts in another way. Some seconds.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import mkdtemp

from datasets import Dataset, load_dataset

from trimtab import SafetyAwareSFTConfig, SafetyAwareSFTTrainer
from trimtab.data.synthetic import CONTEXTS, RESPONSES, make_world, write_data
from trimtab.models import quiet_libraries, save_tiny_llama


def rows_of(folder: Path) -> dict[str, Dataset]:
    """2,000 draws each of `original`, `safety-near` (the proxy) and `task-shared`."""
    write_data(make_world({"near": 0.1}, {"shared": 1.0}), folder, rows=2000)
    return {
        name: load_dataset("json", data_files=str(folder / f"data/{name}.jsonl"), split="train")
        .rename_column("response", "completion")
        .shuffle(seed=0)
        for name in ("original", "safety-near", "task-shared")
    }


def settings(folder: Path, steps: int) -> SafetyAwareSFTConfig:
    """The trainer's arguments, small enough for one CPU core."""
    return SafetyAwareSFTConfig(
        str(folder / "run"),
        **{"max_steps": steps, "per_device_train_batch_size": 32, "learning_rate": 2e-3},
        **{"use_cpu": True, "bf16": False, "report_to": "none", "save_strategy": "no"},
        **{"disable_tqdm": True, "logging_strategy": "no"},
    )


def aligned_model() -> tuple[Path, str, dict[str, Dataset]]:
    """A new folder, the aligned model in it, and the rows."""
    quiet_libraries()
    folder = Path(mkdtemp())
    rows = rows_of(folder)
    save_tiny_llama([*CONTEXTS, *RESPONSES], folder / "base", seed=0)
    trainer = SafetyAwareSFTTrainer(
        str(folder / "base"), args=settings(folder, 150), train_dataset=rows["original"]
    )
    trainer.train()
    trainer.save_model(str(folder / "aligned"))
    return folder, str(folder / "aligned"), rows
