"""The desk between a slot and its workers: one job at a time, the same answer for all ranks, nobody stuck for ever."""

import asyncio

import pytest

from rayseg.cluster import desk as desks
from rayseg.cluster.desk import STARTS, Desk


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 20))


async def soon(coroutine):
    """Start something that is to wait, and let it come to where it waits."""
    task = asyncio.ensure_future(coroutine)
    for _ in range(5):
        await asyncio.sleep(0)
    return task


def test_all_ranks_get_the_job_and_it_is_over_when_all_have_left():
    async def story():
        desk = Desk(2)
        early = await soon(desk.take(1, 0))
        assert not early.done()
        await desk.put({"name": "a"})
        assert (await early).job == (await desk.take(0, 0)).job == {"name": "a"}
        waiting = await soon(desk.next())
        assert await desk.leave(1, 1, "finished")
        again = await soon(desk.take(1, 1))
        assert not waiting.done()
        assert not again.done()
        assert await desk.leave(1, 0, "paused")
        assert (await waiting).over == "paused"
        await desk.put({"name": "b"})
        assert (await again).number == 2

    run(story())


def test_a_report_waits_for_its_own_answer():
    async def story():
        desk = Desk(1)
        await desk.put({})
        await desk.take(0, 0)
        lost = await soon(desk.report(1, {"step": 2}))
        first = await desk.next()
        report = await soon(desk.report(1, {"step": 4}))  # its worker died and came back before the answer
        await desk.answer(first.report, True)
        assert await lost is True
        for _ in range(5):
            await asyncio.sleep(0)
        assert not report.done()
        second = await desk.next()
        assert second.figures == {"step": 4}
        await desk.answer(second.report, False)
        assert await report is False
        assert await desk.report(7, {}) is False  # of a job that is over

    run(story())


def test_workers_that_come_back_get_the_same_job_until_it_is_hopeless():
    async def story():
        desk = Desk(2)
        await desk.put({})
        for start in range(1, STARTS + 2):
            taken = [await desk.take(rank, 0) for rank in (1, 0)]
            assert [t.number for t in taken] == [1, 1]
            assert taken[1].hopeless == (start > STARTS)
        await asyncio.gather(*(desk.leave(1, rank, "failed") for rank in (0, 1)))
        event = await desk.next()
        assert (event.over, event.note) == ("failed", f"its workers died {STARTS} times")
        await desk.put({})
        assert not (await desk.take(0, 1)).hopeless

    run(story())


def test_a_fault_on_all_ranks_ends_the_job_and_keeps_the_workers():
    async def story():
        desk = Desk(2)
        await desk.put({})
        first = await soon(desk.leave(1, 1, "failed"))
        assert not first.done()
        assert await desk.leave(1, 0, "failed") is True
        assert await first is True
        event = await desk.next()
        assert (event.over, event.note) == ("failed", "")
        await desk.put({})  # with the next job on the desk it is still the first that is left
        assert await desk.leave(1, 0, "failed") is True

    run(story())


def test_a_fault_on_one_rank_alone_ends_the_job_and_says_who_is_stuck(monkeypatch):
    monkeypatch.setattr(desks, "STUCK_S", 0.2)

    async def story():
        desk = Desk(3)
        await desk.put({})
        await desk.leave(1, 0, "finished")
        assert await desk.leave(1, 2, "failed") is False
        event = await desk.next()
        assert event.over == "failed"
        assert event.note == "rank 1 was stuck in it: all workers start again"
        again = await soon(desk.take(0, 0))
        assert not again.done()  # the job that failed is not taken again
        await desk.put({"name": "next"})
        assert (await again).job == {"name": "next"}

    run(story())


def test_closed_it_sends_everybody_home():
    async def story():
        desk = Desk(2)
        waiting = [await soon(desk.take(rank, 0)) for rank in (0, 1)]
        await desk.close()
        assert [await task for task in waiting] == [None, None]

    run(story())


def test_two_jobs_at_once_are_a_fault_of_ours():
    async def story():
        desk = Desk(1)
        await desk.put({})
        with pytest.raises(AssertionError):
            await desk.put({})

    run(story())
