"""What three of the examples start from: the built-in world as rows, and training on them.

The world has 32 prompts and 16 answers whose probabilities are known, so that losses are exact. Its
proxy answers nearly as the original safety data does; its task answers the same prompts otherwise.
"""

from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
from transformers import PrinterCallback

from trimtab import SafetyAwareSFTConfig, SafetyAwareSFTTrainer
from trimtab.config.data_source import DataSource, Lengths
from trimtab.config.experiment import Measuring
from trimtab.data.encoding import encode
from trimtab.data.sources import read_rows
from trimtab.data.synthetic import CONTEXTS, RESPONSES, make_world, write_data
from trimtab.measure.losses import HeldOutRows, held_out_loss
from trimtab.models import load_model, load_tokenizer, quiet_libraries, save_tiny_llama

quiet_libraries()
FOLDER = Path(mkdtemp())
ORIGINAL, PROXY, TASK = "original", "safety-near", "task-shared"
write_data(make_world({"near": 0.1}, {"shared": 1.0}), FOLDER, rows=1000)
save_tiny_llama([*CONTEXTS, *RESPONSES], FOLDER / "base", seed=0)
TOKENIZER = load_tokenizer(str(FOLDER / "base"))
ARGUMENTS = {"use_cpu": True, "bf16": False, "save_strategy": "no", "disable_tqdm": True}


def encoded(name: str) -> HeldOutRows:
    rows = read_rows(DataSource(str(FOLDER / f"data/{name}.jsonl")))
    return HeldOutRows(encode(rows, TOKENIZER, Lengths()), np.array([row.weight for row in rows]))


def trained(start: str, data: str, steps: int, **more: Any) -> SafetyAwareSFTTrainer:
    batch = {"max_steps": steps, "per_device_train_batch_size": 32, "learning_rate": 2e-3}
    args = SafetyAwareSFTConfig(str(FOLDER / "run"), safety_repeats=True, **batch, **ARGUMENTS)
    rows = {"train_dataset": encoded(data).rows, "safety_dataset": encoded(PROXY).rows}
    model, tokenizer = load_model(start)
    trainer = SafetyAwareSFTTrainer(model, args=args, processing_class=tokenizer, **rows, **more)
    trainer.remove_callback(PrinterCallback)
    if steps:
        trainer.train()
    return trainer


def loss(model: Any, name: str) -> float:
    return held_out_loss(model, encoded(f"{name}-whole"), Measuring()).per_token.value
