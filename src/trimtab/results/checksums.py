"""SHA-256 of files: what an experiment read, and what a saved model is made of."""

from __future__ import annotations

import hashlib
from pathlib import Path

from trimtab.results.files import write_atomically

CHECKSUMS_FILE = "SHA256SUMS"
"""In a model's folder, as `sha256sum --check` reads it."""

CARD_FILE = "README.md"

ADAPTER_FILE = "adapter_config.json"
"""In the folder of an adapter, and of no model by itself."""

_EDITED_LATER = (CHECKSUMS_FILE, CARD_FILE)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(text: str) -> str:
    """The first 16 hexadecimal digits of SHA-256 of a text: enough to tell texts apart."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]


def write_checksums(folder: Path) -> None:
    """Keep the sums of all that `folder` holds but its card, which people edit."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [
        f"{sha256_of(path)}  {path.relative_to(folder)}\n"
        for path in files
        if path.name not in _EDITED_LATER
    ]
    write_atomically(folder / CHECKSUMS_FILE, "".join(lines))


def changed_files(folder: Path) -> list[str] | None:
    """The files that are missing or are not what was saved; None where no sums were kept."""
    sums = folder / CHECKSUMS_FILE
    if not sums.exists():
        return None
    recorded = [line.split("  ", 1) for line in sums.read_text(encoding="utf-8").splitlines()]
    return [
        name
        for sum_of, name in recorded
        if not (folder / name).is_file() or sha256_of(folder / name) != sum_of
    ]
