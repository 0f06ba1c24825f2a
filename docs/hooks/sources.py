"""Links from a page to a file outside docs/: the site holds a copy of the file.

A link to a folder, which a site has no page for, becomes its plain text.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

_LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]+)\]\((?P<target>[^)#:\s]+)(?:#[^)\s]*)?\)")
"""To a file, and maybe to a heading of it, which a copied text does not have."""
ROOT = Path(__file__).parents[2]


def on_files(files: Any, config: Any) -> Any:
    """Add every file that a page links to and docs/ does not hold, under source/."""
    for page in files.documentation_pages():
        for match in _LINK.finditer(page.content_string):
            path = _outside(page.src_uri, match["target"])
            if path and (ROOT / path).is_file() and files.get_file_from_path(_copy(path)) is None:
                files.append(File.generated(config, _copy(path), abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, **handed: Any) -> str:
    """Point such links at the copies."""

    def linked(match: re.Match[str]) -> str:
        page_path = page.file.src_uri
        path = _outside(page_path, match["target"])
        inside = posixpath.normpath(
            posixpath.join("docs", posixpath.dirname(page_path), match["target"])
        )
        if (ROOT / (path or inside)).is_dir():
            return match["text"]
        if path is None:
            return match[0]
        target = posixpath.relpath(_copy(path), posixpath.dirname(page_path) or ".")
        return f"[{match['text']}]({target})"

    return _LINK.sub(linked, markdown)


def _outside(page: str, target: str) -> str | None:
    """The linked path from the repository's root, where that is not within docs/."""
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), target))
    return None if path.startswith("docs/") or path == "docs" else path


def _copy(path: str) -> str:
    # A page of the site would be made of a copied .md file.
    return f"source/{path}" + (".txt" if path.endswith(".md") else "")
