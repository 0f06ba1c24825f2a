"""What every test shares: no network, no user's cache, quiet libraries."""

from __future__ import annotations

import os
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="trimtab-test-hf-")
os.environ["TOKENIZERS_PARALLELISM"] = "false"
