"""Groups of processes on a Ray cluster, each of which makes a run together.

A group is a placement group of Ray's, which reserves all it needs or nothing, and an actor for each
process. Ray Train's `TorchTrainer` is made of the same two, but ends its processes after every
training, so that each run would load θ_s anew, and its `fit` blocks and takes Ctrl-C to itself.

Ray is imported here only when something is to be made.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from trimtab.errors import UserError, reason_of
from trimtab.runner.processes import LostProcessError, leading, take_part

RETRIES = 10
"""How often a run whose process or node was lost is begun again, from its newest checkpoint."""

LOOK_EVERY = 1.0
SECONDS_TO_END = 10.0


class LostError(Exception):
    """A process ended before its time, as where it was killed or its node is gone."""


@dataclass(frozen=True)
class Lost:
    """What became of a call whose process was lost more often than it is begun again."""

    reason: str

    def __str__(self) -> str:
        return (
            f"its process was lost {RETRIES + 1} times ({self.reason}). Look at the memory of the "
            "machine, and at Ray's logs"
        )


def result_of(task: Any) -> Any:
    """What a task of Ray's that has ended returned; what it raised is raised here, or LostError."""
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        return ray.get(task)
    except RayTaskError as error:
        if isinstance(error.cause, LostProcessError):
            raise LostError(reason_of(error.cause)) from None
        raise error.cause from None
    except RayError as error:
        raise LostError(reason_of(error)) from None


@dataclass
class _Call:
    number: int
    given: tuple[Any, ...]
    losses: int = 0


class Groups:
    """Groups that make one call each at a time, as many as the cluster has room for.

    Args:
        prepare: called first in every process.
        processes: of each group, one CPU each.
        gpus: of each process.
        look: called every second while something is made.
    """

    def __init__(
        self,
        prepare: Callable[[], None],
        processes: int,
        gpus: float,
        look: Callable[[], None],
    ) -> None:
        self._prepare = prepare
        self._processes = processes
        self._gpus = gpus
        self._look = look
        self._groups: list[_Group] = []
        self._failed_starts = 0

    def finished(
        self, function: Callable[..., Any], argument_lists: list[tuple[Any, ...]], are_last: bool
    ) -> Iterator[tuple[int, Any]]:
        """What `function` returns of each of `argument_lists`, by number, as it does; or a `Lost`.

        A group of which a process is lost is ended, and its call begun again by another.

        Args:
            are_last: whether groups that have nothing left to do are ended.

        Raises:
            Exception: what `function` raised, or a process that only follows.
        """
        import ray

        waiting = deque(_Call(number, arguments) for number, arguments in enumerate(argument_lists))
        try:
            while waiting or any(group.call for group in self._groups):
                self._begin(function, waiting, are_last)
                expected = [ref for group in self._groups for ref in group.expected]
                ray.wait(expected, timeout=LOOK_EVERY)
                for group in tuple(self._groups):
                    call = group.call
                    try:
                        results = group.look()
                    except LostError as lost:
                        self._end(group)
                        if call is None:
                            self._count_start_of(group, lost)
                        elif call.losses < RETRIES:
                            call.losses += 1
                            waiting.appendleft(call)
                        else:
                            yield call.number, Lost(str(lost))
                    else:
                        if call and results:
                            yield call.number, results[0]
                self._look()
        finally:
            for group in [group for group in self._groups if group.call]:
                self._end(group)

    def _begin(self, function: Callable[..., Any], waiting: deque[_Call], are_last: bool) -> None:
        """Give calls to the groups that have none; one group more is asked for, while one helps."""
        for group in self._groups:
            if waiting and group.is_ready and not group.call:
                group.begin(function, waiting.popleft())
        starting = [group for group in self._groups if not group.is_ready]
        if len(waiting) > len(starting) and all(group.is_placed for group in starting):
            self._groups.append(_Group(self._prepare, self._processes, self._gpus))
        if are_last and not waiting:
            for group in [group for group in self._groups if not group.call]:
                self._end(group)

    def _count_start_of(self, group: _Group, lost: LostError) -> None:
        self._failed_starts += not group.is_ready
        if self._failed_starts > RETRIES:
            raise UserError(f"the processes of a run: {Lost(str(lost))}.")

    def _end(self, group: _Group) -> None:
        self._groups.remove(group)
        group.end()


class _Group:
    """Actors with a placement group of their own: the first is called, the others follow it."""

    def __init__(self, prepare: Callable[[], None], processes: int, gpus: float) -> None:
        import ray
        from ray.util.placement_group import placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        needs = {"CPU": 1.0} | ({"GPU": gpus} if gpus else {})
        self._reserved = placement_group([needs] * processes, strategy="PACK")
        self._members: list[Any] = [
            ray.remote(_Member)
            .options(
                num_cpus=1,
                num_gpus=gpus,
                scheduling_strategy=PlacementGroupSchedulingStrategy(self._reserved, index),
            )
            .remote()
            for index in range(processes)
        ]
        places = [member.place.remote() for member in self._members]
        self._placed = places[0]
        first, *followers = self._members
        self._joined = first.join.remote(prepare, 0, *places)
        self._following = [
            member.follow.remote(prepare, rank, *places)
            for rank, member in enumerate(followers, start=1)
        ]
        self.is_placed = False
        """Whether the cluster has room for it."""
        self.is_ready = False
        """Whether its processes have started."""
        self.call: _Call | None = None
        """What it makes now."""
        self._task: Any = None

    @property
    def expected(self) -> list[Any]:
        """What ends when there is something to look at."""
        if self.is_ready:
            own = [self._task] if self.call else []
        else:
            own = [self._joined] if self.is_placed else [self._placed, self._joined]
        return [*own, *self._following]

    def begin(self, function: Callable[..., Any], call: _Call) -> None:
        self.call = call
        self._task = self._members[0].call.remote(function, *call.given)

    def look(self) -> list[Any]:
        """In a list what it made, if it has; it is free then.

        Raises:
            LostError: one of its processes is gone.
            Exception: what one of them raised.
        """
        import ray

        ended, _ = ray.wait(self.expected, num_returns=len(self.expected), timeout=0)
        if self.call and self._task in ended:
            result = result_of(self._task)
            self.call = self._task = None
            return [result]
        for task in ended:
            result_of(task)
            if task in self._following:
                raise LostError("a process ended before its time")
        self.is_placed = self.is_placed or self._placed in ended
        self.is_ready = self.is_ready or self._joined in ended
        return []

    def end(self) -> None:
        """End its processes, whatever they do, before anyone else works in their folder."""
        import ray
        from ray.util.placement_group import remove_placement_group

        for member in self._members:
            ray.kill(member)
        if expected := self.expected:
            ray.wait(expected, num_returns=len(expected), timeout=SECONDS_TO_END)
        remove_placement_group(self._reserved)


# What follows runs in the processes that Ray starts.


@dataclass(frozen=True)
class _Place:
    """Where a process of a group is."""

    node: str
    address: str
    port: int
    """That is free there, for the processes to meet at."""
    gpus: tuple[str, ...]


class _Member:
    """A process of a group, with what torchrun would tell it in its environment."""

    def __init__(self) -> None:
        self._open = ExitStack()
        self._leads = False

    def place(self) -> _Place:
        import ray
        from ray.util import get_node_ip_address

        with socket.socket() as free:
            free.bind(("", 0))
            port = free.getsockname()[1]
        node = ray.get_runtime_context().get_node_id()
        gpus = tuple(str(gpu) for gpu in ray.get_gpu_ids())
        return _Place(node, get_node_ip_address(), port, gpus)

    def join(self, prepare: Callable[[], None], rank: int, *places: _Place) -> None:
        """Learn where the others are. Processes of a node see each other's GPUs, as NCCL wants."""
        node_ranks = [
            node_rank for node_rank, place in enumerate(places) if place.node == places[rank].node
        ]
        variables = {
            "RANK": rank,
            "WORLD_SIZE": len(places),
            "LOCAL_RANK": node_ranks.index(rank),
            "LOCAL_WORLD_SIZE": len(node_ranks),
            "MASTER_ADDR": places[0].address,
            "MASTER_PORT": places[0].port,
            "CUDA_VISIBLE_DEVICES": ",".join(
                gpu for node_rank in node_ranks for gpu in places[node_rank].gpus
            ),
        }
        os.environ.update({name: str(value) for name, value in variables.items()})
        prepare()

    def follow(self, prepare: Callable[[], None], rank: int, *places: _Place) -> None:
        """Take part in what the first process does, until it ends."""
        self.join(prepare, rank, *places)
        take_part()

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What `function` returns in the first process, which the others follow meanwhile."""
        if not self._leads:
            self._open.enter_context(leading())
            self._leads = True
        return function(*arguments)
