"""The papers' figures: exact counts, the counters against arithmetic done by hand, and that clashes are marked."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from measure import live_bytes
from naive.denoised_attention import denoised_attention as naive_attention
from rayseg import calibration, cli
from rayseg.calibration import references
from rayseg.calibration.counting import CONVENTIONS, parameters, peak_bytes, product_flops, thop_flops
from rayseg.errors import UsageError
from rayseg.heads.nonlocal_net import NonLocal


@pytest.fixture(scope="module")
def table():
    return calibration.rows()


def the(table, source, what, convention):
    (row,) = [r for r in table if (r.source, r.what, r.convention) == (source, what, convention)]
    return row


EXACT = [
    ("DF-DAM T4", "DF-DAM R18", "params+aux", 11_573_130),
    ("DF-DAM T6", "DF-DAM R101", "params+aux", 43_241_232),
    ("GALD T6", "CCNet R101", "params", 66_558_036),
    ("GALD T6", "DANet R101", "params", 66_578_555),
    ("GALD T6", "GALDv1 R101", "params", 66_664_915),
    ("author's code", "GALDv1 R50", "params+aux", 52_402_662),
    ("author's code", "GALDv1 R101", "params+aux", 71_394_790),
    ("author's code", "Denoised NL R50", "params+aux", 59_671_866),
    ("author's code", "Denoised NL R101", "params+aux", 78_663_994),
    ("author's code", "DFN R101", "params+aux", 90_217_888 - 8_421),  # without the block that is never used
    ("GALD T4", "LDv1, added", "params", 435_200),
    ("GALD T4", "LDv2, added", "params", 2_293_760),
    # ResNet-101 has 17 blocks more than ResNet-50, of 256 x 1024, 9 x 256 x 256, 1024 x 256 weights and 3 norms each.
    ("GALD T4", "R101 - R50, one head", "params", 17 * (2 * 256 * 1024 + 9 * 256**2 + 2 * (256 + 256 + 1024))),
]


@pytest.mark.parametrize(("source", "what", "convention", "count"), EXACT, ids=lambda value: str(value))
def test_parameters_are_exact(table, source, what, convention, count):
    assert the(table, source, what, convention).ours * 1e6 == pytest.approx(count, abs=0.5)


@pytest.mark.parametrize(
    ("source", "what", "convention", "published", "tolerance"),
    [
        ("DF-DAM T4", "DF-DAM R18", "thop", 10.31, 0.005),
        ("DF-DAM T6", "DF-DAM R101", "thop", 35.52, 0.005),
        ("DF-DAM T4", "DeepLabv2 R101", "params+aux", 43.90, 0.005),
        ("DF-DAM T6", "DeepLabv2 R101", "params+aux", 44.05, 0.005),
        ("DF-DAM T4", "DeepLabv2 R101", "thop", 148.73, 0.005),
        ("DF-DAM T6", "DeepLabv2 R101", "thop", 149.22, 0.005),
        ("DF-DAM T4", "PSPNet R101", "params+aux", 75.04, 0.005),
        ("DF-DAM T6", "PSPNet R101", "params+aux", 75.05, 0.005),
        ("DF-DAM T4", "PSPNet R101", "thop", 230.01, 0.005),
        ("DF-DAM T6", "PSPNet R101", "thop", 230.02, 0.005),
        ("Denoised NL T5", "+NL", "2/MAC", 7.63, 0.01),
        ("Denoised NL T5", "+CCNet", "2/MAC", 1.77, 0.01),
        ("Denoised NL T5", "+DANet", "2/MAC", 10.04, 0.01),
        ("Denoised NL T5", "+DRANet*", "2/MAC", 0.76, 0.03),
        ("Denoised NL T5", "+Denoised NL", "2/MAC", 7.83, 0.01),
        ("Denoised NL T5", "+Denoised NL, maps kept", "2/MAC", 7.83, 0.01),
        ("Denoised NL T5", "+Denoised NL, maps kept", "peak", 428, 4),
        ("author's code", "DFN R101, 640x320", "1/MAC", 216.57, 0.005),
        ("author's code", "Denoised NL R50, 768x768", "1/MAC", 524.2, 0.05),
        ("author's code", "Denoised NL R101, 768x768", "1/MAC", 698.8, 0.05),
        ("GALD T4", "FCN + ASPP R50", "params", 47.5, 0.05),
    ],
)
def test_the_published_cell_comes_out(table, source, what, convention, published, tolerance):
    row = the(table, source, what, convention)
    assert float(row.published) == published
    assert abs(row.ours - published) <= tolerance
    assert row.difference_percent == pytest.approx(100 * (row.ours - published) / published)


def test_what_cannot_be_met_is_marked_and_nothing_else(table):
    marked = {(r.source, r.what) for r in table if r.verdict == "contradicted"}
    attention = {("Denoised NL T5", what) for what in ("+NL", "+CCNet", "+DANet", "+DRANet*")}
    assert {cell for cell in marked if cell[0] == "Denoised NL T5"} == attention
    assert {what for source, what in marked if source.startswith("GALD")} == {
        "FCN + ASPP R50",
        "FCN + ASPP R101",
        "R101 - R50, one head",
        "PSPNet R101",
        "GALDv2 R101, rayseg's",
        "GALDv2 R101, T4's + LDv2",
    }
    assert not [r for r in table if r.source.startswith("DF-DAM") and r.verdict != "agrees"]
    off = {(r.what, r.convention) for r in table if r.verdict == "differs"}
    assert off == {("+DRANet*", "2/MAC"), ("+Denoised NL", "peak"), ("GALDv1 R101", "params")}


def test_the_clash_is_one(table):
    published = {r.what: float(r.published) for r in table if r.source == "GALD T4"}
    r50, r101 = published["FCN + ASPP R50"], published["FCN + ASPP R101"]
    assert r101 - r50 == pytest.approx(published["R101 - R50, one head"])
    assert the(table, "GALD T4", "R101 - R50, one head", "params").ours > r101 - r50 + 1
    assert (
        r101 + published["LDv2, added"]
        > float(the(table, "GALD T6", "GALDv2 R101, rayseg's", "params").published) + 0.8
    )


# --- counters -------------------------------------------------------------------------------------------------------


def small():
    """Build a biased and strided convolution, batch norm, pooling, a linear layer: each counted differently."""
    return nn.Sequential(
        nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(24, 5),
    ).eval()


def test_thop_flops_by_hand():
    convolution, norm, pool, linear = 6 * 5 * 7 * (2 * 9 + 1), 4 * 6 * 5 * 7, 6 * 5 * 7 + 6 * 4, 5 * 24
    assert thop_flops(small(), torch.zeros(1, 4, 10, 14)) == convolution + norm + pool + linear


def test_thop_flops_leaves_no_hooks():
    net = small()
    assert thop_flops(net, torch.zeros(1, 4, 10, 14)) == thop_flops(net, torch.zeros(1, 4, 10, 14))
    assert not any(layer._forward_hooks for layer in net.modules())


def test_product_flops_by_hand():
    assert product_flops(small(), torch.zeros(1, 4, 10, 14)) == 2 * (6 * 5 * 7 * 2 * 9 + 5 * 24)


def test_shared_parameters_count_once():
    layer = nn.Linear(3, 2)
    assert parameters(layer, nn.Sequential(layer), None) == 8


def test_peak_on_meta_is_the_peak_of_a_computation():
    """The same module on the CPU, under the watch that benchmarks measure with."""
    convolutions, x = nn.Sequential(nn.Conv2d(4, 6, 1), nn.Conv2d(6, 8, 1), nn.Conv2d(8, 2, 1)), torch.zeros(1, 4, 5, 7)
    assert peak_bytes(convolutions, x) == (6 + 8) * 5 * 7 * 4  # what a layer reads and makes; the input is not counted
    net, x = NonLocal(16), torch.zeros(1, 16, 9, 8)
    real = live_bytes(net, (x,), training=False).peak
    assert peak_bytes(net.to("meta"), x.to("meta")) == real


def test_kept_maps_are_the_naive_form():
    """The net whose memory is Table V's computes what the formula, written out for the benchmarks, computes."""
    net = references.NaiveDenoised().double()
    x = torch.randn(1, 512, 5, 6, dtype=torch.float64)
    expected = naive_attention(net.query(x), net.key(x), net.value(x), classes=x[:, :19], kernel_size=3)
    torch.testing.assert_close(net(x), expected)


def test_deeplab_rounds_up_as_caffe_does():
    net = references.DeepLabV2(19)
    assert net(torch.empty(1, 3, 640, 320, device="meta")).shape == (1, 19, 81, 41)


# --- the printed table ----------------------------------------------------------------------------------------------


def test_lines_fit_and_the_legend_explains_every_word(table):
    lines = calibration.text(table)
    assert max(map(len, lines)) <= 120
    legend = lines[lines.index("") + 1 :]
    named = {line.split()[0] for line in legend if line[0] != " "}
    assert {r.convention for r in table} | set("".join(r.notes for r in table)) <= named
    assert {r.kind for r in table} | {r.verdict for r in table} <= named
    assert set(calibration.NOTES) <= named, "a note that no row has"
    assert {r.convention for r in table} == set(CONVENTIONS), "a convention that no row has"
    width = {line.index("agrees") for line in lines[: lines.index("")] if "agrees" in line}
    assert len(width) == 1  # columns are aligned


def test_the_command_prints_the_rows(table, monkeypatch):
    monkeypatch.setattr(calibration, "rows", lambda: table)
    done = CliRunner().invoke(cli.rayseg, ["models", "--paper-figures", "--json"], catch_exceptions=False)
    assert [json.loads(line) for line in done.stdout.splitlines()] == [r._asdict() for r in table]
    done = CliRunner().invoke(cli.rayseg, ["models", "--paper-figures"], catch_exceptions=False)
    assert done.stdout.splitlines() == calibration.text(table)


@pytest.mark.parametrize("option", [["--head", "gald"], ["--size", "3x64x64"], ["--output-stride", "8"]])
def test_options_that_it_would_ignore_are_refused(option):
    with pytest.raises(UsageError, match=f"paper-figures .{option[0]}.: drop it"):
        CliRunner().invoke(cli.rayseg, ["models", "--paper-figures", *option], catch_exceptions=False)
