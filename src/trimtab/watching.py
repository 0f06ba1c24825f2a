"""Who looks on while long work is done: progress bars, a script, nobody."""

from __future__ import annotations

from typing import Protocol


class Watcher(Protocol):
    """Someone who looks on at work that is done in stages."""

    def warned(self, warning: str) -> None:
        """The data holds something the user should know, or a training does."""

    def doing(self, what: str, steps: int | None = None) -> None:
        """A stage begins, of so many steps where that is known."""

    def stepped(self, steps: int) -> None:
        """So many steps of it are done by now."""
