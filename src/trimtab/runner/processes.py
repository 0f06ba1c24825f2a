"""The processes that a launcher started for one command: the first leads, the others follow.

The first runs the command: it reads the plan, writes every file and prints. The others run no
command. They keep an object that the first had them make, and call its methods when it does, so
that all train one model together. Nothing is asked of them that depends on what the disk holds.

torch is imported here only where several processes were started.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from time import monotonic
from typing import Any, TypeVar

from trimtab.errors import UserError, mistake, printable, reason_of

T = TypeVar("T")

_WORK = timedelta(days=365)
"""A follower waits while the first judges or writes, however long that takes."""
_TRAINING = timedelta(minutes=30)
"""As Transformers has it: how long a process waits for another within a training."""
_GRACE = timedelta(seconds=60)
"""After an error, until the others are taken to have none: they wait where nobody comes."""


def launched() -> int:
    """How many processes a launcher started for this command, this one among them."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "LOCAL_RANK" in os.environ else 1


def is_first() -> bool:
    """Whether this process is alone, or the first of those that a launcher started."""
    return launched() == 1 or os.environ.get("RANK", "0") == "0"


class Processes:
    """The processes of this command: this one alone."""

    count = 1

    def make_together(self, kind: Callable[..., Any], *arguments: Any, own: Callable[[], T]) -> T:
        """`own()` here, while each of the others makes and keeps `kind(*arguments)`."""
        return own()

    def call_together(self, method: str, *arguments: Any, own: Callable[[], T]) -> T:
        """`own()` here, while each of the others calls this method of what it keeps."""
        return own()

    def gather(self, method: str, *arguments: Any, own: Callable[[], T]) -> list[T]:
        """`own()` here, then what this method of what each of the others keeps returns.

        What is returned goes from process to process.
        """
        return [own()]


class LostProcessError(UserError):
    """Another process ended before its time."""


class _LostError(Exception):
    """Not all processes ended what they did together: they wait for ever, or are gone."""

    def __init__(self, is_waiting: bool) -> None:
        super().__init__()
        self.is_waiting = is_waiting


@dataclass(frozen=True)
class _Make:
    kind: Callable[..., Any]
    given: tuple[Any, ...]


@dataclass(frozen=True)
class _Call:
    method: str
    given: tuple[Any, ...]
    returns: bool = False
    """Whether the first process wants what it returns."""


@dataclass(frozen=True)
class _End:
    """How a process ended what all did."""

    error: str | None
    found: Any = None


class _Group:
    """What processes tell each other by, beside what trainings do: it waits as long as it takes."""

    def __init__(self) -> None:
        import torch
        from accelerate import PartialState

        # Also chooses this process's GPU, which what is loaded before a training goes to.
        state = PartialState(cpu=not torch.cuda.is_available(), timeout=_TRAINING)
        self.processes, self.index = state.num_processes, state.process_index
        self.group = torch.distributed.new_group(backend="gloo", timeout=_WORK)

    def broadcast(self, message: Any = None) -> Any:
        """What the first process says, on all of them."""
        import torch

        box = [message]
        torch.distributed.broadcast_object_list(box, src=0, group=self.group)
        return box[0]

    def ended(self, error: Exception | None, result: Any = None) -> list[_End]:
        """How each process ended what they all did, once all have.

        Raises:
            _LostError: this one had an error, and not all others ended too.
        """
        import torch

        patience, begun = _WORK if error is None else _GRACE, monotonic()
        try:
            torch.distributed.monitored_barrier(self.group, patience)
        except RuntimeError:
            is_waiting = monotonic() - begun > _GRACE.total_seconds() / 2  # a loss is seen at once
            raise _LostError(is_waiting) from error
        ends: list[_End] = [_End(None)] * self.processes
        own = _End(None if error is None else error_text(error), result)
        torch.distributed.all_gather_object(ends, own, group=self.group)
        return ends

    def leave(self) -> None:
        """Left to the end of the interpreter, a group of processes aborts it."""
        import torch

        torch.distributed.destroy_process_group()


class Leader(Processes):
    """The processes of this command, of which this is the first."""

    def __init__(self) -> None:
        self.group = _Group()
        self.count = self.group.processes
        self.is_lost = False
        """Whether others wait where nobody will come, so that nothing reaches them."""

    def make_together(self, kind: Callable[..., Any], *arguments: Any, own: Callable[[], T]) -> T:
        return self._together(_Make(kind, arguments), own)[0]

    def call_together(self, method: str, *arguments: Any, own: Callable[[], T]) -> T:
        return self._together(_Call(method, arguments), own)[0]

    def gather(self, method: str, *arguments: Any, own: Callable[[], T]) -> list[T]:
        own_result, other_results = self._together(_Call(method, arguments, returns=True), own)
        return [own_result, *other_results]

    def end(self) -> None:
        """Let the others end."""
        self.group.broadcast(None)
        self.group.leave()

    def _together(self, message: _Make | _Call, own: Callable[[], T]) -> tuple[T, list[Any]]:
        self.is_lost = True  # until all have met, as after an interruption
        self.group.broadcast(message)
        try:
            result = own()
        except Exception as error:
            self._met(error)
            raise
        ends = self._met(None)
        for process, end in enumerate(ends):
            if end.error is not None:
                raise UserError(f"process {process} of {self.count}: {end.error}")
        return result, [end.found for end in ends[1:]]

    def _met(self, error: Exception | None) -> list[_End]:
        try:
            ends = self.group.ended(error)
        except _LostError as lost:
            message = (
                "another process ended before its time" if error is None else error_text(error)
            )
            kind = UserError if error is not None and lost.is_waiting else LostProcessError
            raise kind(
                f"process 0 of {self.count}: {message.rstrip('.')}. What is finished is kept; the "
                "same command goes on."
            ) from error
        self.is_lost = False
        return ends


_ALONE = Processes()
_leader: Leader | None = None


def processes() -> Processes:
    """Those that make the runs of this command.

    Raises:
        UserError: a launcher started several, and they do not follow one of them.
    """
    if _leader is not None:
        return _leader
    require_one_process()
    return _ALONE


def require_one_process(what: str = "a sweep in a script") -> None:
    """Raises UserError where a launcher started several processes, of which each would do it."""
    if launched() > 1:
        raise UserError(
            f"{what} is run by one process, and a launcher started {launched()}. Start it without "
            "torchrun or accelerate launch: they start trimtab train, sweep, compare and dial "
            "train, and scripts with SafetyAwareSFTTrainer."
        )


@contextmanager
def leading() -> Iterator[None]:
    """While it lasts this process leads those that a launcher started, and then lets them end."""
    global _leader
    _leader = leader = Leader()
    try:
        yield
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) or leader.is_lost:
            _leave_at_once(error)
        raise
    finally:
        _leader = None
        leader.end()


def _leave_at_once(error: BaseException) -> None:
    """End as the interpreter would, but wait for no process that waits for this one."""
    status = error.code if isinstance(error, SystemExit) else 1
    if isinstance(error, KeyboardInterrupt):
        status = 130
    elif not isinstance(error, SystemExit):
        traceback.print_exception(error)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status if isinstance(status, int) else 1)


def follow() -> int:
    """Do what the first process says until it ends; the status to exit with.

    Nothing is printed where the first can tell what went wrong.
    """
    try:
        take_part()
    except LostProcessError:
        return 1
    except UserError as error:
        print(f"trimtab: {error}", file=sys.stderr, flush=True)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def take_part() -> None:
    """Do what the first process says until it ends.

    Raises:
        LostProcessError: another process has ended before its time.
        UserError: an error that the first process cannot tell of, as it waits for this one.
    """
    from trimtab.models import quiet_libraries

    quiet_libraries()
    group = _Group()
    target: Any = None
    try:
        while (message := group.broadcast()) is not None:
            error = result = None
            try:
                if isinstance(message, _Make):
                    target = None  # before there is another in memory
                    target = message.kind(*message.given)
                else:
                    returned = getattr(target, message.method)(*message.given)
                    result = returned if message.returns else None
                    del returned  # a model, perhaps, of which another is made next
            except Exception as raised:
                error = raised
            group.ended(error, result)
        group.leave()
    except _LostError as lost:
        if lost.is_waiting and isinstance(lost.__cause__, Exception):
            raise UserError(f"process {group.index}: {error_text(lost.__cause__)}") from lost
        raise LostProcessError("another process ended before its time") from lost
    except RuntimeError:
        raise LostProcessError("the first process ended without a word") from None


def error_text(error: Exception) -> str:
    """An error in one line."""
    return mistake(error) or printable(f"{type(error).__name__}: {reason_of(error)}")
