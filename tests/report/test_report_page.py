"""A report's page: what it shows, that nothing on it is fetched or run but its own script, and that it stays small."""

import base64
import hashlib
import html.parser
import re
import time

import pytest
from made_sweep import POINTS, Made, whole

from rayseg.report import lines, page
from rayseg.report.gather import gather
from rayseg.report.values import Searched, Trial

EVIL = "<script>alert('x')</script><img src=https://evil/x onerror=alert(1)>&\"'"


class Read(html.parser.HTMLParser):
    """Collects elements with their attributes, the text of cells by rows, and the words under each heading."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.rows, self.sections, self._in = [], [], {"": ""}, []
        self._heading = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._in.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag == "h2":
            self._heading = ""
        if tag in ("meta", "img", "br"):
            self._in.pop()

    def handle_endtag(self, tag):
        while self._in.pop() != tag:
            pass
        if tag == "h2":
            self.sections[self._heading] = ""

    def handle_data(self, data):
        if "script" in self._in or "style" in self._in:
            return
        if "h2" in self._in:
            self._heading += data
        elif self._heading in self.sections:
            self.sections[self._heading] += data
        if "td" in self._in or "th" in self._in:
            self.rows[-1][-1] += data


def rendered(folder):
    return page.render(gather(folder))


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return rendered(whole(tmp_path_factory.mktemp("sweep")))


def test_the_table_shows_what_was_gathered(text, tmp_path):
    report = gather(whole(tmp_path))
    rows = [row for row in Read(text).rows if row and re.fullmatch(r"k\d{7}", row[1] if len(row) > 1 else "")]
    shown = [(row[1], row[5], row[6]) for row in rows if len(row) == 12]
    assert shown == [(t.key, f"{t.miou:.4f}", f"{t.boundary:.4f}") for t in report.trials]


def test_every_part_is_there(text):
    wanted = [
        "Ranking",
        "All trials over what was searched",
        "Kernel size and dilation",
        "Effect of each searched value",
    ]
    wanted += ["Curves", "Hardest images", "What it took", "Run it again", "What stands behind it"]
    assert [name for name in Read(text).sections if name] == wanted


def test_nothing_is_fetched_and_only_the_own_script_runs(text):
    assert not re.search(r"(?i)https?://|@import|url\(|\bon[a-z]+=|fetch\(|XMLHttp|WebSocket", text)
    elements = Read(text).elements
    (policy,) = [a["content"] for tag, a in elements if a.get("http-equiv") == "Content-Security-Policy"]
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == f"'sha256-{digest}'"
    assert rules["img-src"] == "data:"
    for _, attributes in elements:
        for name in ("src", "href"):
            assert attributes.get(name, "data:").startswith("data:")


def test_words_of_strangers_stay_words(tmp_path):
    made = Made(tmp_path / "s&<b>", about=EVIL, space={"head.norm": {"kind": "choice", "values": ["batch", "group"]}})
    made.trial({"head.norm": "batch", "optim.lr": 0.01, EVIL: EVIL}, reason=EVIL, key="first")
    made.trial({"head.norm": "group", "optim.lr": 0.02, EVIL: "2"}, outcome="failed", reason=EVIL, key="k<i>2")
    made.classes("first", {EVIL: 0.5})
    made.finals(f"open: {EVIL}; {EVIL}", {"first": [0.3, 0.2]}, [("first", EVIL, 0.1, 0.0, 0.2, 0.95)])
    made.tracker.tag("code", EVIL)
    text = rendered(made.over())
    assert len(re.findall(r"<script", text)) == 1
    read = Read(text)
    assert not [a for tag, a in read.elements if tag == "img" or any(name.startswith("on") for name in a)]
    assert not [tag for tag, _ in read.elements if tag in ("b", "i") and "<b>" in tag]
    assert EVIL in read.sections["Ranking"]


def test_three_hundred_trials_are_a_page_of_bearable_size(tmp_path):
    trials = []
    for n in range(300):
        curve = tuple((step, step / 9000 + n / 1000) for step in range(5000))
        point = {"head.kernel_size": 3 + 2 * (n % 3), "optim.lr": 10 ** (-3 + n / 150)}
        trials.append(
            Trial(f"{n:08x}", point, "finished", "", miou=n / 400, curves={"val/miou": curve, "train/loss": curve})
        )
    report = gather(whole(tmp_path))._replace(
        trials=tuple(reversed(trials)),
        winner=trials[-1].key,
        base=trials[0].key,
        searched=(
            Searched("head.kernel_size", "kernel_size", None, (3, 5, 7)),
            Searched("optim.lr", "lr", "log", tuple(sorted(t.point["optim.lr"] for t in trials))),
        ),
    )
    began = time.process_time()
    text = page.render(report)
    assert time.process_time() - began < 20
    assert len(text) < 4 << 20
    assert text.count('class="line') > 3 * 300 - 3


def test_axes_are_to_scale():
    """A log axis has equal steps for equal ratios, a choice equal steps whatever its values, in their order."""
    trials = [Trial(str(v), {"lr": v, "k": k}, "finished", "", miou=0.1) for v, k in ((0.001, 3), (0.01, 5), (0.1, 70))]
    on_log = lines.axis(Searched("lr", "lr", "log", (0.001, 0.01, 0.1)), trials).places
    assert on_log == pytest.approx([lines.BOTTOM, (lines.BOTTOM + lines.TOP) / 2, lines.TOP])
    on_line = lines.axis(Searched("lr", "lr", "linear", (0.001, 0.01, 0.1)), trials).places
    assert (on_line[0] - on_line[1]) / (on_line[0] - on_line[2]) == pytest.approx(0.009 / 0.099)
    choices = lines.axis(
        Searched("k", "k", None, (3, 5, 70)), [*trials, Trial("n", {}, "finished", "", miou=0.1)]
    ).places
    assert choices[0] - choices[1] == pytest.approx(choices[1] - choices[2])
    assert choices[0] > choices[1]
    assert choices[3] is None


def test_long_curves_keep_their_ends():
    curve = tuple((step, 1 / (step + 1)) for step in range(10_001))
    kept = lines.thinned(curve)
    assert (kept[0], kept[-1]) == (curve[0], curve[-1])
    assert len(kept) <= lines.MOST_POINTS + 1
    assert set(kept) <= set(curve)


VERDICTS = {
    "winner a": (
        [0.5, 0.6],
        (0.1, 0.02, 0.2),
        "winner",
        "a wins: mIoU 0.5500 over 2 seeds, 0.1000 [0.0200, 0.2000] above b",
    ),
    "tie: x": ([0.5, 0.6], (0.1, -0.02, 0.2), "tie", "A tie: a and b differ by 0.1000 [-0.0200, 0.2000] mIoU"),
    "open: x; seeds were not varied": ([0.5], (0.1, 0.02, 0.2), "open", "One seed each, images only"),
    "open: x; 3 images are too few": ([0.5, 0.6], (0.1, 0.02, 0.2), "open", "Because 3 images are too few."),
}


@pytest.mark.parametrize("verdict", VERDICTS)
def test_the_first_sentence_says_what_the_finals_say(tmp_path, verdict):
    miou, interval, kind, line = VERDICTS[verdict]
    made = Made(tmp_path)
    made.trial(POINTS[0], key="b", miou=0.7)
    made.trial(POINTS[1], key="a", miou=0.6)
    made.finals(verdict, {"a": miou, "b": [0.4] * len(miou)}, [("a", "b", *interval, 0.95)])
    text = rendered(made.over())
    read = Read(text)
    assert f'class="verdict {kind}"' in text
    assert line in read.sections[""]
    (own,) = [row for row in read.rows if len(row) > 8 and row[1] == "b"]
    assert f"{-interval[0]:+.4f} [{-interval[2]:+.4f}, {-interval[1]:+.4f}]" in own


def test_a_sweep_without_finals_names_no_winner(text):
    assert "nothing says yet that it is more than chance" in Read(text).sections[""]


def test_two_objectives_have_a_front(tmp_path):
    made = Made(tmp_path, objectives=["miou", "-parameters"])
    for key, miou, size in (("a", 0.5, 9_000_000), ("b", 0.4, 2_000_000), ("c", 0.3, 3_000_000)):
        made.trial(POINTS[0] | {"optim.lr": miou}, key=key, miou=miou, parameters=size)
    fronted = [a["data-key"] for _, a in Read(rendered(made.over())).elements if "front" in a.get("class", "")]
    assert sorted(fronted) == ["a", "b"]


def test_sheets_are_embedded_and_too_large_ones_said(tmp_path):
    made = Made(tmp_path)
    made.trial(POINTS[0], key="base", miou=0.2)
    made.trial(POINTS[1], key="best", miou=0.4)
    for key, size in (("base", 10), ("best", 4 << 20)):
        place = tmp_path / "trials" / key / "review"
        place.mkdir()
        (place / "hardest.jpg").write_bytes(b"\xff" * size)
    text = rendered(made.over())
    assert text.count("data:image/jpeg;base64,") == 1
    assert base64.b64encode(b"\xff" * 10).decode() in text
    assert "hardest.jpg is 4.0 MiB" in Read(text).sections[""]
