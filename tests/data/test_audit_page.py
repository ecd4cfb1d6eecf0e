"""The audit page: it says what the masks hold and what is odd, and no text of a stranger becomes markup."""

from __future__ import annotations

import base64
import io
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from tiny_sets import CLASSES, IGNORED, make_card, make_files, put_pair

from rayseg.data import charts, duplicates, index, manifest, markup, open_shards, shards
from rayseg.data.card import Card
from rayseg.data.pictures import Album

TAGS = """html head meta title style body input main header h1 h2 p b small div ul li i span bdi table thead tbody tr th
td label figure figcaption img br svg rect circle line path text footer a"""
ATTRIBUTES = """lang charset http-equiv content name type id class checked style href rel colspan title for src alt
loading width height viewbox role aria-label x y x1 x2 y1 y2 cx cy r d fill text-anchor"""


class Page(HTMLParser):
    """Collects tags, attributes and the text of each element, by the standard library's parser."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags, self.attributes, self.text = list[str](), list[tuple[str, str | None]](), list[str]()
        self.cells, self.open = list[list[str]](), False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.open = True
            self.cells[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self.open = False

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if self.open:
            self.cells[-1][-1] += data


def page_of(folder: Path) -> Page:
    return Page((folder / "audit.html").read_text("utf-8"))


def share(text: str) -> float:
    return 0.0 if text == "never" else float(text.removeprefix("in ").removesuffix(" %")) / 100


def test_the_shares_are_those_of_the_pixels(pristine: Path) -> None:
    rows = {cells[1]: cells for cells in page_of(pristine).cells if len(cells) == 8}
    assert set(rows) == {*(f"class{i}" for i in range(CLASSES)), "ignored"}
    for place, split in enumerate(("train", "val")):
        masks = [sample.mask for sample in open_shards(pristine, split)]
        for label, name in [*((i, f"class{i}") for i in range(CLASSES)), (IGNORED, "ignored")]:
            assert rows[name][0] == str(label)
            _, pixels, samples = rows[name][2 + 3 * place :][:3]
            assert share(pixels) == pytest.approx(float((np.stack(masks) == label).mean()), rel=0.05)
            assert share(samples) == pytest.approx(float(np.mean([(m == label).any() for m in masks])), rel=0.05)


def test_it_fetches_nothing_and_runs_nothing(pristine: Path) -> None:
    page = page_of(pristine)
    assert set(page.tags) <= set(TAGS.split())
    assert {name for name, _ in page.attributes} <= set(ATTRIBUTES.split())
    sources = [value or "" for name, value in page.attributes if name in ("src", "href")]
    assert sources
    assert all(value.startswith("data:image/") for value in sources)
    assert ("content", "default-src 'none'; img-src data:; style-src 'unsafe-inline'") in page.attributes
    assert "url(" not in (pristine / "audit.html").read_text()


HOSTILE = [
    "<script>alert(1)</script>",
    "</style></title><img src=x onerror=alert(1)>",
    '" onmouseover="x()',
    "&lt;b&gt;",
]


@pytest.mark.parametrize("text", [*HOSTILE, "'><svg/onload=x()>", "\u202egnp.exe", "\x1b[2Jcleared", "]]>--><!--"])
def test_a_strangers_words_stay_words(text: str, files: Path, tmp_path: Path) -> None:
    classes = [{"name": f"class{i}", "color": [9, 9, i]} for i in range(CLASSES - 1)] + [
        {"name": text, "color": [1, 2, 3]}
    ]
    card = make_card(title=text, licence=text, home=f"javascript:{text}", classes=classes)
    shards.write(card, files, tmp_path / "out")
    page = page_of(tmp_path / "out")
    assert set(page.tags) <= set(TAGS.split())
    assert {name for name, _ in page.attributes} <= set(ATTRIBUTES.split())
    assert not [value for name, value in page.attributes if name == "href"]
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    assert page.text.count(shown) >= 4, "title, licence, table, legend"


def test_a_home_is_a_link_where_it_is_one(files: Path, tmp_path: Path) -> None:
    shards.write(make_card(home='https://x.org/?a="b"&c=<d>'), files, tmp_path / "out")
    page = page_of(tmp_path / "out")
    assert [value for name, value in page.attributes if name == "href"] == ['https://x.org/?a="b"&c=<d>']
    assert 'x.org/?a="b"&c=<d>' in page.text


def test_markup_is_escaped_whatever_it_is_put_into() -> None:
    assert (
        markup.tag("p", ["<b>", ("&", markup.tag("i"))], title='"<')
        == '<p title="&quot;&lt;">&lt;b&gt;&amp;<i></i></p>'
    )
    assert markup.tag("br", class_=None, aria_label="x") == '<br aria-label="x">'
    assert markup.link("HTTPS:x") == "<bdi>HTTPS:x</bdi>"


def test_pictures_have_the_classes_colours_where_the_classes_are(pristine: Path) -> None:
    whole = manifest.read(pristine)
    table = index.read(pristine, whole)
    album, colors = Album(pristine, whole.card, table), [spec.color for spec in whole.card.classes]
    for row, sample in zip((0, 7, 290), (open_shards(pristine, "train").read(i) for i in (0, 7, 290)), strict=True):
        picture = album.picture(row, tall=100)
        assert (picture.width, picture.height) == (16, 12)
        layer = pixels(picture.mask)
        for label, color in enumerate(colors):
            np.testing.assert_array_equal(
                layer[sample.mask == label], [[*color, 255]] * int((sample.mask == label).sum())
            )
        assert not layer[sample.mask == IGNORED][:, 3].any()
        alone = pixels(album.picture(row, tall=100, only=2).mask)
        np.testing.assert_array_equal(alone[..., 3] == 0, sample.mask == 2)
        near, noise = pixels(picture.image)[..., :3].astype(float), sample.image.astype(float)
        assert np.corrcoef(near.ravel(), noise.ravel())[0, 1] > 0.5, "noise does not survive JPEG much better"


def pixels(url: str) -> np.ndarray[Any, Any]:
    with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as image:
        return np.asarray(image.convert("RGBA"))


def test_a_large_picture_is_made_small(tmp_path: Path) -> None:
    files = make_files(tmp_path / "raw", 2, 1)
    put_pair(files, "train", "wide.png", 5, (300, 2000))
    put_pair(files, "train", "tall.png", 6, (900, 60))
    shards.write(make_card(), files, tmp_path / "out")
    whole = manifest.read(tmp_path / "out")
    table = index.read(tmp_path / "out", whole)
    album = Album(tmp_path / "out", whole.card, table)
    shapes = {key: album.picture(row, tall=100)[2:] for row, key in enumerate(table.key)}
    assert (shapes["wide"], shapes["tall"]) == ((250, 38), (7, 100))
    drawn = pixels(album.picture(list(table.key).index("tall"), tall=100).mask)
    allowed = {(*spec.color, 255) for spec in whole.card.classes}
    assert {tuple(color) for color in drawn[drawn[..., 3] > 0].tolist()} == allowed, "no label between two labels"


# --- what is there twice --------------------------------------------------------------------------------------------


def copied(files: Path) -> None:
    """Three copies: within train, of a train image in val under another mask, and one packed otherwise."""
    for kind in ("", "annot"):
        shutil.copy(files / f"train{kind}/a001.png", files / f"train{kind}/z.png")
    shutil.copy(files / "train/a002.png", files / "val/y.png")
    cv2.imwrite(str(files / "valannot/y.png"), np.zeros((12, 16), np.uint8))
    pixels = cv2.imread(str(files / "val/b000.png"))
    cv2.imwrite(str(files / "train/x.png"), pixels, [cv2.IMWRITE_PNG_COMPRESSION, 9])
    shutil.copy(files / "valannot/b000.png", files / "trainannot/x.png")
    assert (files / "train/x.png").read_bytes() != (files / "val/b000.png").read_bytes()


def test_what_is_there_twice_is_found_and_shown(files: Path, tmp_path: Path) -> None:
    copied(files)
    report = shards.write(make_card(), files, tmp_path / "out", image="jpeg:50")
    assert report.warnings == (
        "train and val: 2 pictures occur in 4 samples: train/a002 and val/y, train/x and val/b000; "
        "the masks of 1 differ",
        "train: 1 picture occurs in 2 samples: train/a001 and train/z",
    )
    text = "".join(page_of(tmp_path / "out").text)
    assert "in both train and val: 2" in text
    assert "within train: 1" in text
    assert "2 times · their masks differ" in text


def test_all_that_is_there_twice_is_named(tmp_path: Path) -> None:
    """A warning names the first few, the page all; of a picture that is there three times two and a count."""
    files = make_files(tmp_path / "raw", 10, 1)
    for kind in ("", "annot"):
        for i in range(10):
            shutil.copy(files / f"train{kind}/a{i:03d}.png", files / f"val{kind}/c{i:03d}.png")
        shutil.copy(files / f"train{kind}/a009.png", files / f"val{kind}/d.png")
    report = shards.write(make_card(), files, tmp_path / "out")
    names = [f"train/a{i:03d} and val/c{i:03d}" for i in range(10)]
    assert report.warnings == (
        f"train and val: 10 pictures occur in 21 samples: {', '.join(names[:4])}, ... (the audit page has them)",
    )
    assert f"and {names[8]}; {names[9]} and 1 more" in page_of(tmp_path / "out").text
    captions = "".join(page_of(tmp_path / "out").text)
    assert all(word in captions for name in names for word in name.split(" and "))


def nearly_copied(files: Path) -> None:
    """One image that differs from another in its last pixel, and two of the same zeros in other shapes."""
    pixels = cv2.imread(str(files / "train/a003.png"))
    pixels[-1, -1, 0] ^= 1
    cv2.imwrite(str(files / "train/w.png"), pixels)
    shutil.copy(files / "trainannot/a003.png", files / "trainannot/w.png")
    for name, size in (("flat", (6, 8)), ("upright", (8, 6))):
        put_pair(files, "val", f"{name}.png", 9, size)
        cv2.imwrite(str(files / f"val/{name}.png"), np.zeros((*size, 3), np.uint8))


def test_duplicates_are_those_of_a_comparison_of_each_with_each(files: Path, tmp_path: Path) -> None:
    copied(files)
    nearly_copied(files)
    shards.write(make_card(), files, tmp_path / "out")
    table = index.read(tmp_path / "out", manifest.read(tmp_path / "out"))
    images = [s.image for split in ("train", "val") for s in open_shards(tmp_path / "out", split)]
    same = {(i, j) for j in range(len(images)) for i in range(j) if np.array_equal(images[i], images[j])}
    found = duplicates.find(table)
    assert {(i, j) for group in found for j in group.rows for i in group.rows if i < j} == same
    assert len(same) == 3
    assert [group.splits for group in found] == [("train",), ("train", "val"), ("train", "val")]
    assert [group.masks_differ for group in found] == [False, True, False]


def test_a_set_without_any_says_nothing(pristine: Path) -> None:
    assert "Nothing odd was found." in page_of(pristine).text
    assert "more than once" not in "".join(page_of(pristine).text)


# --- what no class is -----------------------------------------------------------------------------------------------


def soft_brushed(files: Path) -> Card:
    """Masks of colours, two of which no class has."""
    for split in ("train", "val"):
        for path in (files / f"{split}annot").iterdir():
            labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            colors = np.array([*([40 * i, 0, 255 - i] for i in range(CLASSES)), *[[0, 0, 0]] * 5], np.uint8)[labels]
            if path.stem in ("a000", "a003", "b001"):
                colors[:2, :3], colors[5, :4] = (12, 201, 3), (7, 7, 7)
            cv2.imwrite(str(path), colors[..., ::-1])
    return make_card(labels={"coding": "color", "ignore_colors": [[0, 0, 0]], "unknown": "ignore"})


def test_colours_of_no_class_are_counted(files: Path, tmp_path: Path) -> None:
    report = shards.write(soft_brushed(files), files, tmp_path / "out")
    whole = manifest.read(tmp_path / "out")
    assert whole.unknown == {"train": {"12,201,3": 12, "7,7,7": 8}, "val": {"12,201,3": 6, "7,7,7": 4}}
    table = index.read(tmp_path / "out", whole)
    assert dict(zip(table.key, table.unknown_pixels, strict=True)) == {
        key: 10 if key in ("a000", "a003", "b001") else 0 for key in table.key
    }
    assert report.warnings[0].startswith("train: 1.74% of all pixels, in 2 samples, store what no class is")
    rows = [cells for cells in page_of(tmp_path / "out").cells if len(cells) == 4]
    assert rows[0] == ["12,201,3", "train", "12 pixels", "1.0 %"]
    assert len(rows) == 4


def test_of_many_unknown_values_the_most_frequent_are_named(files: Path, tmp_path: Path) -> None:
    mask = np.zeros((12, 16), np.uint8)
    values = np.repeat(np.arange(100, 136), [2] * 30 + [5] * 6)
    mask.flat[: len(values)] = values
    cv2.imwrite(str(files / "trainannot/a004.png"), mask)
    shards.write(make_card(labels={"unknown": "ignore"}), files, tmp_path / "out")
    named = manifest.read(tmp_path / "out").unknown["train"]
    assert len(named) == 32
    assert list(named.items())[:7] == [*((str(value), 5) for value in range(130, 136)), ("100", 2)]
    assert index.read(tmp_path / "out", manifest.read(tmp_path / "out")).unknown_pixels.sum() == 90


def test_values_of_no_class_are_counted_too(files: Path, tmp_path: Path) -> None:
    mask = cv2.imread(str(files / "trainannot/a004.png"), cv2.IMREAD_UNCHANGED)
    mask[3] = 77
    cv2.imwrite(str(files / "trainannot/a004.png"), mask)
    shards.write(make_card(labels={"unknown": "ignore"}), files, tmp_path / "out")
    assert manifest.read(tmp_path / "out").unknown == {"train": {"77": 16}}
    assert ["77", "train", "16 pixels", "1.4 %"] in page_of(tmp_path / "out").cells


# --- numbers and charts ---------------------------------------------------------------------------------------------


def test_percent_keeps_two_digits() -> None:
    said = [charts.percent(value) for value in (0, 1e-7, 0.00001234, 0.00123, 0.0456, 0.123, 0.999, 1)]
    assert said == ["0 %", "< 0.0001 %", "0.0012 %", "0.12 %", "4.6 %", "12 %", "100 %", "100 %"]


def test_strips_and_bars_are_as_long_as_their_shares() -> None:
    card = make_card()
    shares = [0.5, 0.25, 0.125, 0.0625, 0.03125, 0.03125]
    widths = [float(width) for width in re.findall(r"width:([\d.]+)%", charts.strip(shares, card))]
    assert widths == pytest.approx([100 * one for one in shares], abs=1e-3)
    for share_, length in ((1.0, 100), (0.1, 80), (0.001, 40), (1e-5, 1), (0.0, 0)):
        assert float(re.findall(r"width:([\d.]+)%", charts.bar(share_, (1, 2, 3)))[0]) == pytest.approx(
            length, abs=0.01
        )


def test_every_sample_is_in_one_bin_and_every_size_is_a_disc() -> None:
    drawn = charts.histogram({"train": [0, 0.02, 0.06, 1.0], "val": [0.5]})
    tall = [float(value) for value in re.findall(r'height="([\d.]+)" fill="#0072b2"', drawn)]
    assert [round(value**2 / 140**2, 2) for value in tall if value] == [0.5, 0.25, 0.25]
    discs = charts.bubbles({"train": {(10, 20): 4, (30, 10): 1}, "val": {(10, 20): 1}})
    assert discs.count("<circle") == 3
    assert "train: 4 of 10x20" in discs
