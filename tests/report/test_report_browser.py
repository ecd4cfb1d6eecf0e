"""A report in a browser: no error in the console, the ranking sorts, and ranges dragged over axes filter trials."""

import base64
import json
import re
import shutil
import subprocess

import pytest
from made_sweep import score, whole

from rayseg.report import look, page
from rayseg.report.gather import gather

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")]

PROBE = """
const shown = () => all('table.ranking tbody tr').filter(row => getComputedStyle(row).display !== 'none');
const keys = () => shown().map(row => row.dataset.key);
const told = {first: keys()};
const heads = all('table.ranking th');
const head = name => heads.find(each => each.textContent === name).querySelector('button');
head('lr').click(); told.lr_down = keys();
head('lr').click(); told.lr_up = keys();
const grips = all('.grip', chart), last = grips[grips.length - 1], box = last.getBoundingClientRect();
last.setPointerCapture = () => {};
const at = (kind, share) => last.dispatchEvent(new PointerEvent(kind, {
  bubbles: true, pointerId: 1, clientX: box.x + box.width / 2, clientY: box.y + box.height * share}));
at('pointerdown', 0.0); at('pointermove', 0.4); at('pointerup', 0.4);
told.upper = keys(); told.words = kept.hidden ? '' : kept.textContent;
kept.querySelector('button').click(); told.again = keys();
const line = all('.line', chart)[0];
line.dispatchEvent(new PointerEvent('pointerover', {bubbles: true}));
told.say = say.textContent; told.lit = all('tr.lit').map(row => row.dataset.key);
document.body.innerHTML = '<pre>' + btoa(JSON.stringify(told)) + '</pre>';
"""


def browsed(folder, text):
    """Open a page; give its DOM and what the console said."""
    (folder / "r.html").write_text(text)
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", f"--user-data-dir={folder}/c"]
    command = [CHROMIUM, *options, "--window-size=1280,2000", "--dump-dom", f"file://{folder}/r.html"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_the_page_opens_without_a_word_in_the_console(tmp_path):
    text = page.render(gather(whole(tmp_path / "sweep")))
    dom, console = browsed(tmp_path, text)
    assert console == []
    assert 'id="parallel"' in dom
    _, console = browsed(tmp_path, text.replace("'use strict';", "'use strict'; "))  # its hash is not the policy's
    assert len(console) == 1


def test_the_ranking_sorts_and_ranges_filter(tmp_path, monkeypatch):
    """The page's own script with a probe behind it, under a policy that lets both run."""
    report = gather(whole(tmp_path / "sweep"))
    monkeypatch.setattr(look, "SCRIPT", look.SCRIPT + PROBE)
    monkeypatch.setattr(look, "POLICY", re.sub(r"'sha256-[^']*'", "'unsafe-inline'", look.POLICY))
    dom, console = browsed(tmp_path, page.render(report))
    assert console == []
    told = json.loads(base64.b64decode(re.search(r"<pre>(.*?)</pre>", dom)[1]))
    by_rate = [t.key for t in sorted(report.trials, key=lambda t: t.point["optim.lr"])]
    assert sorted(told["again"]) == sorted(told["first"])
    assert told["first"] == [t.key for t in report.trials]
    assert told["lr_down"] == by_rate[::-1]
    assert told["lr_up"] == by_rate
    upper = set(told["upper"])
    scores = {f"k{n:07d}": score(n) for n in range(1, 7)}
    assert 0 < len(upper) < 6
    assert min(scores[key] for key in upper) > max(scores[key] for key in scores.keys() - upper)
    assert told["words"].startswith(f"{len(upper)} of 6 trials")
    worst = min(scores, key=scores.get)
    assert told["say"].startswith(f"{worst}: mIoU {scores[worst]:.4f}")
    assert told["lit"] == [worst]
