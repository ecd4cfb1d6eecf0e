"""The live table on a terminal that records: what stands where, in how many lines, and what marks the best."""

import io
import re

import pytest
from rich.console import Console

from rayseg.sweep.board import Board, Event
from rayseg.sweep.live import Live, telling
from rayseg.sweep.space import choice
from rayseg.sweep.trial import Preset, trials


@pytest.fixture
def twelve():
    """Twelve trials of 80 steps."""
    space = {"head.kernel_size": choice(3, 5, 7), "head.dilation": choice(1, 2, 3, 6)}
    preset = Preset(about="a test", recipe="gald/scenes", settings={}, space=space, algorithm="grid")
    return trials(preset, algorithm="grid", count=1, shards="none", settings={})


def terminal(width=100, height=20):
    return Console(force_terminal=True, width=width, height=height, file=io.StringIO(), color_system="standard")


def drawn(live, width=100, height=20):
    console = terminal(width, height)
    console.print(live.drawn(height))
    return console.file.getvalue()


def plain(text):
    return [line.rstrip() for line in re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", text).splitlines()]


def result(trial, step, miou):
    return Event("result", trial, {"step": step, "loss": 1.0, "miou": miou, "best_miou": miou})


def told(trials, clock=lambda: 0.0):
    board = Board(trials, left={t.key: 80 for t in trials}, best=None, clock=clock)
    live = Live(board, title="a sweep")
    for i, trial in enumerate(trials[:8]):
        live.tell(Event("start", trial, {}))
        live.tell(result(trial, 20, 0.1 + 0.01 * i))
        if i < 6:
            reason = "stopped at rung 1 by ASHA: 0.1 under the cut 0.2" if i % 2 else ""
            live.tell(Event("stopped" if i % 2 else "finished", trial, {"reason": reason}))
    return live


def test_those_that_run_stand_first_then_the_best(twelve):
    live = told(twelve)
    head, columns, *rows = plain(drawn(live, width=130))
    assert head.startswith(f"a sweep   6/12 done  best 0.170 ({twelve[7].key})  0:00 so far  eta ")
    assert columns.split() == ["trial", "kernel_size", "dilation", "step", "mIoU", "best", "eta", "state"]
    numbers = [int(row.lstrip("*").split()[0]) for row in rows]
    assert numbers == [7, 8, 6, 5, 4, 3, 2, 1]
    assert [row.startswith("*") for row in rows] == [n == 8 for n in numbers]
    assert rows[0].split()[1:] == [twelve[6].key, "5", "3", "20/80", "0.160", "0.160", "runs"]
    assert rows[2].endswith("stopped at rung 1 by ASHA: 0.1 under the cut 0.2")
    assert "stopped  stopped" not in rows[2]


def test_what_an_interrupt_left_is_paused_and_not_over(twelve):
    live = told(twelve)
    live.tell(Event("paused", twelve[6], {}))
    head, _, *rows = plain(drawn(live, width=130))
    assert head.startswith("a sweep   6/12 done")
    (row,) = (row for row in rows if twelve[6].key in row)
    assert row.split()[-1] == "paused"


@pytest.mark.parametrize("height", [8, 10, 13])
def test_it_fits_the_terminal_and_says_what_is_left_out(twelve, height):
    lines = plain(drawn(told(twelve), height=height))
    assert len(lines) <= height - 1
    shown = [line for line in lines if re.match(r"\*?\s+\d+ [0-9a-f]{8}", line)]
    assert f"... and {8 - len(shown)} more: " in lines[-1]
    counted = sum(int(n) for n in re.findall(r"(\d+) (?:runs|finished|stopped)", lines[-1]))
    assert counted == 8 - len(shown)
    assert "runs" in shown[0]


@pytest.mark.parametrize("width", [70, 80, 200])
def test_no_line_is_wider_than_the_terminal_and_figures_are_whole(twelve, width):
    lines = plain(drawn(told(twelve), width=width))
    assert max(map(len, lines)) <= width
    assert any("0.170" in line and twelve[7].key in line and "20/80" in line for line in lines[2:])


def test_the_eta_of_the_pace_so_far(twelve):
    now = [0.0]
    board = Board(twelve, left={t.key: 80 for t in twelve}, best=None, clock=lambda: now[0])
    live = Live(board)
    now[0] = 60.0
    live.tell(result(twelve[0], 60, 0.2))
    assert "1:00 so far  eta 15:00" in plain(drawn(live))[0]  # 900 of 960 steps at one a second


def test_known_points_are_counted_and_named(twelve):
    live = Live(Board(twelve, left={t.key: 80 for t in twelve[1:]}, best=None, total=13))
    live.tell(Event("known", twelve[0], {"miou": 0.31, "reason": "gald-demo-1/3fa29c01"}))
    head, _, row = plain(drawn(live))
    assert "2/13 done  best 0.310" in head
    assert row.endswith("0.310  0.310       known  gald-demo-1/3fa29c01")


def test_a_terminal_gets_the_table_and_what_is_printed_scrolls_above_it(twelve):
    console = terminal()
    said = []
    with telling(twelve, left={t.key: 80 for t in twelve}, best=None, show=said.append, console=console) as tell:
        tell(Event("start", twelve[0], {}))
        console.print("a word of the search")
        tell(result(twelve[0], 20, 0.2))
    output = console.file.getvalue()
    lines = plain(output)
    assert said == []
    assert "a word of the search" in lines
    assert "20/80" in lines[-1]  # the last state stays
    assert "\x1b[?25l" in output  # the cursor is hidden while it is drawn,
    assert output.rstrip().endswith("\x1b[?25h")  # and is back at the end


def test_elsewhere_there_are_plain_lines(twelve):
    console = Console(file=io.StringIO(), force_terminal=False)
    said = []
    with telling(twelve, left={t.key: 80 for t in twelve}, best=None, show=said.append, console=console) as tell:
        tell(Event("start", twelve[0], {}))
        tell(result(twelve[0], 20, 0.2))
    assert console.file.getvalue() == ""
    assert said[0] == f"[ 0/12 done] {twelve[0].key} starts   kernel_size=3 dilation=1"
    assert "step 20/80  loss 1.000  mIoU 0.200" in said[1]
