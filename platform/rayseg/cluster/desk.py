"""The desk of a slot of several workers: they take jobs from it and tell it what happens; the slot waits there.

It is an actor of its own, because the slot's process waits inside Tune and the workers inside Ray Train. One job is
there at a time, and it is over once every rank has left it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from rayseg.cluster.launch import Over  # not at run time: the desk's process needs no torch

STARTS = 3
"""So often a job is begun on workers that die in it, before it counts as failed."""
STUCK_S = 10.0
"""So long the other ranks may take to leave a job that failed on one; they may wait for that one in a collective."""


class Event(NamedTuple):
    """What happens in a job: rank 0 reports figures (`report` is what to answer to), or the job is over."""

    figures: dict[str, Any] | None = None
    over: Over | None = None
    note: str = ""
    report: int | None = None


class Taken(NamedTuple):
    """A job and its number; `hopeless` after too many starts."""

    number: int
    job: dict[str, Any]
    hopeless: bool


class Desk:
    """One job at a time for `world` ranks; an actor whose methods may wait."""

    def __init__(self, world: int) -> None:
        self.world = world
        self.number = self.starts = self.reports = 0
        self.job: dict[str, Any] | None = None
        self.left: dict[int, Over] = {}
        self.closed = False
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self.verdicts: dict[int, asyncio.Future[bool]] = {}
        self.bell = asyncio.Condition()

    # --- for the slot -----------------------------------------------------------------------------------------------

    async def put(self, job: dict[str, Any]) -> None:
        """Lay down a job, in plain types."""
        assert self.job is None, "the job before is not over"
        self.number, self.job, self.starts, self.left = self.number + 1, job, 0, {}
        await self._ring()

    async def next(self) -> Event:
        """Wait for what happens."""
        return await self.events.get()

    async def answer(self, report: int, going: bool) -> None:
        """Say whether the job goes on after a report."""
        if (verdict := self.verdicts.pop(report, None)) is not None:
            verdict.set_result(going)

    async def close(self) -> None:
        """Send the workers home."""
        self.closed = True
        await self._ring()

    # --- for the workers --------------------------------------------------------------------------------------------

    async def take(self, rank: int, done: int) -> Taken | None:
        """Wait for a job after number `done`; None when there are no more."""
        async with self.bell:
            await self.bell.wait_for(lambda: self.closed or (self.job is not None and self.number > done))
        if self.closed or self.job is None:
            return None
        self.starts += rank == 0
        return Taken(self.number, self.job, self.starts > STARTS)

    async def report(self, number: int, figures: dict[str, Any]) -> bool:
        """Tell figures, and wait for whether the job goes on."""
        if self.job is None or number != self.number:
            return False
        self.reports += 1
        report = self.reports
        self.verdicts[report] = asyncio.get_running_loop().create_future()
        verdict = self.verdicts[report]
        await self.events.put(Event(figures=figures, report=report))
        return await verdict

    async def leave(self, number: int, rank: int, over: Over) -> bool:
        """Tell that a rank is through with the job; False where the others are stuck in it, and must be ended."""
        if self.job is None or number != self.number:
            return True
        self.left[rank] = over
        if len(self.left) == self.world:
            note = f"its workers died {STARTS} times" if self.starts > STARTS else ""
            await self._over("failed" if "failed" in self.left.values() else over, note)
        elif over == "failed":
            return await self._freed(number)
        return True

    async def _freed(self, number: int) -> bool:
        """Wait for the other ranks to leave a job that failed."""
        async with self.bell:
            try:
                await asyncio.wait_for(self.bell.wait_for(lambda: self.number != number or self.job is None), STUCK_S)
            except TimeoutError:
                pass
            else:
                return True
        if self.job is None or self.number != number:
            return True
        stuck = sorted(set(range(self.world)) - self.left.keys())
        await self._over("failed", f"rank {', '.join(map(str, stuck))} was stuck in it: all workers start again")
        return False

    async def _over(self, over: Over, note: str) -> None:
        self.job = None
        await self.events.put(Event(over=over, note=note))
        await self._ring()

    async def _ring(self) -> None:
        async with self.bell:
            self.bell.notify_all()
