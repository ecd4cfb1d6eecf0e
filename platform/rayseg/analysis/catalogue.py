"""Every figure of `rayseg analyse`: its name, whose figure it is, which heads have it, what its arrays are.

`module` is the file beside this one whose function of the figure's name computes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

from rayseg.errors import UsageError, nearest


class Figure(NamedTuple):
    """A figure; `images` is how many it shows at most, `point` and `against` whether it takes them.

    `whole`: it looks at the whole image with all of the run's test settings, not at one view.
    """

    name: str
    paper: str
    about: str
    heads: str
    module: str
    arrays: Mapping[str, str]
    images: int = 1
    point: Literal["needed", "taken", "refused"] = "refused"
    against: bool = False
    whole: bool = False


SEEN = {
    "image": "(H, W, 3) uint8, what the model saw: the image, or one of the run's test windows",
    "truth": "(H, W) uint8 labels",
    "prediction": "(H, W) uint8 labels, from this one view",
    "corner": "(2,) where the view lies in the image: y, x",
    "point": "(2,) the chosen pixel in the view: y, x; absent without --point",
}
"""The arrays of every figure of one image (`error_map` has the first three)."""

_CLASS_VARIANCE = Figure(
    name="class_variance",
    paper="DGCWNet, Fig. 3 (eq. 8)",
    about="how far the classes' mean features lie apart, channel by channel, with the module and without it",
    heads="dgcw with head.context = dgcw; any head with --against",
    module="dgcw",
    arrays={
        "with_variance, without_variance": "(D,) variance of each channel over the classes' means, eq. 8",
        "with_share, without_share": "(D,) that variance, each class by its pixels, of the channel's whole variance",
        "with_means, without_means": "(C, D) each class's mean feature, NaN where it never occurs",
        "pixels": "(C,) pixels of each class at the map's size",
    },
    images=0,
    against=True,
)
_CHANNEL_WEIGHTS = Figure(
    name="channel_weights",
    paper="DF-DAM, Fig. 7",
    about="how much of each channel of the high-level and of the low-level map DAFM lets through",
    heads="dfdam with head.dafm = true",
    module="dfdam",
    arrays={
        "high, low": "(C,) weights between 0 and 1",
        "other_high, other_low, other_image": "those of a second --image",
    },
    images=2,
)
_CONFIDENCE_MAP = Figure(
    name="confidence_map",
    paper="DF-DAM, Fig. 8",
    about="where 2DPAM trusts the spatial features, beside low-level channels that DAFM weights little and much",
    heads="dfdam with head.pam = true",
    module="dfdam",
    arrays={
        "confidence": "(h, w) between 0 and 1",
        "low_features": "(C, h', w') the low-level map that DAFM weights",
        "low": "(C,) their weights; absent with head.dafm = false",
    },
    point="taken",
)
_LDV1_MASK = Figure(
    name="ldv1_mask",
    paper="GALD, Fig. 7",
    about="how much of the global context LDv1 passes on at each pixel, the mean of its mask over channels",
    heads="gald with head.ld = v1",
    module="gald",
    arrays={"mask": "(C, h, w) M of eq. 1", "mean": "(h, w) its mean over channels"},
    point="taken",
)
_LOCAL_AFFINITY = Figure(
    name="local_affinity",
    paper="GALD, Fig. 9",
    about="from which of its taps LDv2 takes the context at the point",
    heads="gald with head.ld = v2",
    module="gald",
    arrays={
        "affinity": "(k, k) weights, those of taps outside the map too; they sum to 1",
        "inside": "(k, k) bool, whether the tap is on the map",
        "taps_yx": "(k, k, 2) the taps' middles in the view, px",
        "cell": "(2,) the map's pixel that holds the point: row, column",
        "map_size": "(2,) the map's height and width",
    },
    point="needed",
)
_ATTENTION_MAPS = Figure(
    name="attention_maps",
    paper="Denoised NL, Fig. 11",
    about="to which pixels the point attends: as the products say (A), rectified by classes (A'), holes filled (A'')",
    heads="denoised_nl with head.attention = true",
    module="denoised_nl",
    arrays={
        "attention": "(h, w) A at the point; sums to 1",
        "rectified": "(h, w) A'; absent with head.global_rectifying = false",
        "retained": "(h, w) A''; absent with head.local_retention = false",
        "cell": "(2,) the map's pixel that holds the point: row, column",
    },
    point="needed",
)
_BORDER_PREDICTION = Figure(
    name="border_prediction",
    paper="DFN, Fig. 6",
    about="where the Border Network sees classes meet, level by level, beside where the labels say so",
    heads="dfn with head.border = true",
    module="dfn",
    arrays={
        "border_1 … border_n": "(H, W) probability of a border after each level, shallow to deep",
        "border_truth": "(H, W) bool, as the run's loss finds it",
        "counted": "(H, W) bool, where it counts",
    },
)
_ERROR_MAP = Figure(
    name="error_map",
    paper="GALD, Fig. 10",
    about="which pixels the run gets wrong, with the run's own test settings",
    heads="any head",
    module="mistakes",
    arrays={
        "wrong": "(H, W) bool, of labelled pixels",
        "counted": "(H, W) bool, labelled",
        "against_prediction, against_wrong": "(H, W) those of the --against run",
    },
    against=True,
    whole=True,
)

FIGURES: Mapping[str, Figure] = {
    figure.name: figure
    for figure in (
        _CLASS_VARIANCE,
        _CHANNEL_WEIGHTS,
        _CONFIDENCE_MAP,
        _LDV1_MASK,
        _LOCAL_AFFINITY,
        _ATTENTION_MAPS,
        _BORDER_PREDICTION,
        _ERROR_MAP,
    )
}


def find(name: str) -> Figure:
    """Find a figure by its name.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in FIGURES:
        raise UsageError(f"unknown figure '{name}'", "--figure", nearest(name, FIGURES))
    return FIGURES[name]


def listing() -> Iterator[str]:
    """Give the lines of `rayseg analyse --list`."""
    for figure in FIGURES.values():
        yield f"{figure.name:18} {figure.paper:24} {figure.heads}"
        yield f"{'':18} {figure.about}"
        yield f"{'':18} {asks(figure)}"


def asks(figure: Figure) -> str:
    """Say how a figure is asked for."""
    parts = [f"--figure {figure.name}"]
    if figure.images:
        parts.append("--image KEY" + (" [--image KEY]" if figure.images > 1 else ""))
    if figure.point != "refused":
        parts.append("--point Y,X" if figure.point == "needed" else "[--point Y,X]")
    if figure.against:
        parts.append("[--against RUN]")
    return " ".join(parts)


def arrays_text() -> str:
    """Name every array of every .npz, for the command's help."""
    shown = [("one image's figures", SEEN), *((figure.name, figure.arrays) for figure in FIGURES.values())]
    return "\n\n".join(
        "\n".join([f"\b\n{name}:", *(f"  {k}: {v}" for k, v in arrays.items())]) for name, arrays in shown
    )
