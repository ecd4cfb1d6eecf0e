"""Arrays of the figures against the papers' formulas written out, and against what the head then did with them."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from rayseg.analysis import catalogue, denoised_nl, dfdam, dfn, dgcw, gald, mistakes
from rayseg.analysis.moments import ClassMoments
from rayseg.analysis.subject import View, at_cells, look
from rayseg.errors import DataError, UsageError
from rayseg.heads.dgcw import Dgcw
from rayseg.heads.gald import MaskedDistribution
from rayseg.train import evaluate
from rayseg.train.step import to_device


@pytest.fixture(autouse=True)
def without_gradients() -> Any:
    """Compute none in the naive forms."""
    with torch.no_grad():
        yield


POINTS = [(0, 0), (47, 63), (20, 33), (5, 60)]


def close(ours: Any, naive: Any, **tolerance: float) -> None:
    ours, naive = (x.detach().numpy() if isinstance(x, Tensor) else np.asarray(x) for x in (ours, naive))
    np.testing.assert_allclose(ours, naive, **{"rtol": 1e-4, "atol": 1e-6, **tolerance})


def features(subject: Any, image: np.ndarray) -> list[Tensor]:
    """The backbone's maps of an image."""
    return subject.trained.model.backbone(to_device(image[None], torch.device("cpu"), channels_last=True))


def through(module: Any, subject: Any, image: np.ndarray) -> tuple[Any, Any]:
    """What goes into a module and comes out, in a forward pass of the whole model."""
    kept = []
    handle = module.register_forward_hook(lambda _, inputs, output: kept.append((inputs, output)))
    with torch.no_grad():
        subject.trained.model(to_device(image[None], torch.device("cpu"), channels_last=True))
    handle.remove()
    return kept[-1]


# --- views ----------------------------------------------------------------------------------------------------------


def test_a_cell_is_the_one_whose_part_of_the_image_holds_the_point() -> None:
    mask = np.arange(45 * 61).reshape(45, 61)
    for rows, columns in ((6, 8), (12, 16), (45, 61)):
        middles = at_cells(mask, (rows, columns))
        for row, column in itertools.product(range(rows), range(columns)):
            y, x = divmod(int(middles[row, column]), 61)
            assert View("", None, mask, (0, 0), (y, x)).cell((rows, columns)) == (row, column)  # type: ignore[arg-type]
        for y, x in itertools.product(range(45), range(61)):
            row, column = View("", None, mask, (0, 0), (y, x)).cell((rows, columns))  # type: ignore[arg-type]
            assert row * 45 <= y * rows < (row + 1) * 45
            assert column * 61 <= x * columns < (column + 1) * 61


def test_the_view_is_the_test_window_around_the_point(make: Any) -> None:
    subject = make("fcn", {"test": {"window_px": [32, 40], "stride": 0.5}})
    sample = subject.shards.read(0)
    for point in POINTS:
        view = look(subject, sample, point)
        (top, left), (y, x) = view.corner, view.point
        assert view.image.shape == (32, 40, 3)
        assert (top + y, left + x) == point
        assert (view.image[y, x] == sample.image[point]).all()
        assert (view.mask == sample.mask[top : top + 32, left : left + 40]).all()
    assert look(subject, sample, (47, 63)).corner == (16, 24)
    assert look(make("fcn"), sample, (3, 4)).image.shape == sample.image.shape


@pytest.mark.parametrize("point", [(48, 0), (0, 64), (-1, 3), (3, -1)])
def test_a_point_outside_the_image_is_refused(make: Any, point: tuple[int, int]) -> None:
    subject = make("fcn")
    with pytest.raises(UsageError, match=r"outside .* Y from 0 to 47 and X from 0 to 63"):
        look(subject, subject.shards.read(0), point)


# --- DGCWNet --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [None, [32, 40]])
def test_streamed_variance_is_numpys_over_all_pixels(make: Any, ask: Any, window: Any) -> None:
    test = {} if window is None else {"test": {"window_px": window, "stride": 1.0}}
    subject = make("dgcw", test, base="none", channels=8)
    found = dgcw.class_variance(ask("class_variance", subject)).arrays
    module = next(m for m in subject.trained.model.head.modules() if isinstance(m, Dgcw))
    gathered: dict[str, list[np.ndarray]] = {"without": [], "with": [], "labels": []}
    for sample in subject.shards:
        height, width = window or sample.mask.shape
        for top, left in itertools.product(sorted({0, 48 - height}), sorted({0, 64 - width})):
            image, mask = (x[top : top + height, left : left + width] for x in (sample.image, sample.mask))
            (f,), fbar = through(module, subject, np.ascontiguousarray(image))
            for row, column in itertools.product(range(f.shape[2]), range(f.shape[3])):
                gathered["without"].append(f[0, :, row, column].numpy())
                gathered["with"].append(fbar[0, :, row, column].numpy())
                y, x = (
                    int((n + 0.5) * side / cells)
                    for n, side, cells in zip((row, column), mask.shape, f.shape[2:], strict=True)
                )
                gathered["labels"].append(mask[y, x])
    labels = np.array(gathered["labels"])
    present = [c for c in range(11) if (labels == c).any()]
    assert len(present) < 11  # some class never occurs at the map's size
    for name in ("without", "with"):
        x = np.array(gathered[name], np.float64)
        means = np.stack([x[labels == c].mean(0) for c in present])
        close(found[f"{name}_variance"], means.var(axis=0), rtol=1e-5)
        assert np.isnan(found[f"{name}_means"]).all(1).tolist() == [c not in present for c in range(11)]
    assert found["pixels"].tolist() == [(labels == c).sum() for c in range(11)]
    assert (found["with_variance"] != found["without_variance"]).all()


def test_against_takes_the_maps_that_are_classified(make: Any, ask: Any) -> None:
    subject, against = make("dgcw", base="none", channels=8), make("fcn", channels=16)
    found = dgcw.class_variance(ask("class_variance", subject, against=against)).arrays
    x, labels = [], []
    for sample in against.shards:
        layers = against.trained.model.head.layers
        with torch.no_grad():
            last = layers[0](features(against, sample.image)[-1])
        x.append(last[0].flatten(1).T.numpy())
        labels.append(at_cells(sample.mask, last.shape[2:]).ravel())
    x, labels = np.concatenate(x).astype(np.float64), np.concatenate(labels)
    means = np.stack([x[labels == c].mean(0) for c in range(11) if (labels == c).any()])
    close(found["without_variance"], means.var(axis=0), rtol=1e-5)
    classify = subject.trained.model.head.classify
    assert len(found["with_variance"]) == classify.in_channels


def test_of_several_classifiers_the_one_that_gave_main_is_taken(make: Any, ask: Any) -> None:
    """Denoised NL predicts by an auxiliary head too, on its way to the main one."""
    subject = make("denoised_nl", channels=16)
    found = dgcw.class_variance(ask("class_variance", subject, against=subject)).arrays
    last = subject.trained.model.head.classify[-1]
    moments = ClassMoments(11, last.in_channels)
    for sample in subject.shards:
        (x,), _ = through(last, subject, sample.image)
        moments.update(x[0].flatten(1).T.numpy(), at_cells(sample.mask, x.shape[2:]).ravel())
    close(found["with_variance"], moments.variance())


def test_a_single_class_has_no_variance(make: Any, ask: Any) -> None:
    subject = make("dgcw", base="none", channels=8)
    read = subject.shards.read
    subject.shards.read = lambda position: read(position)._replace(mask=np.full((48, 64), 3, np.uint8))
    with pytest.raises(DataError, match="1 class occurs"):
        dgcw.class_variance(ask("class_variance", subject))


# --- DF-DAM ---------------------------------------------------------------------------------------------------------


def test_channel_weights_are_those_of_the_pooled_high_level(make: Any, ask: Any) -> None:
    subject = make("dfdam", {"backbone.output_stride": 32}, channels=16)
    asked = ask("channel_weights", subject, images=2)
    found = dfdam.channel_weights(asked).arrays
    for prefix, view in zip(("", "other_"), asked.views, strict=True):
        pooled = features(subject, view.image)[-1][0].mean((1, 2))
        for name in ("high", "low"):
            _, first, _, second, _ = getattr(subject.trained.model.head.dafm, name)
            hidden = (first.weight[:, :, 0, 0] @ pooled + first.bias).relu()
            close(found[prefix + name], torch.sigmoid(second.weight[:, :, 0, 0] @ hidden + second.bias))
    assert np.abs(found["low"] - found["other_low"]).max() > 1e-4
    assert (found["other_image"] == asked.views[1].image).all()


@pytest.mark.parametrize("with_weights", [True, False])
def test_confidence_is_what_the_head_weighted_space_with(make: Any, ask: Any, with_weights: bool) -> None:
    subject = make("dfdam", {"backbone.output_stride": 32}, channels=16, dafm=with_weights)
    asked = ask("confidence_map", subject, (20, 33))
    result = dfdam.confidence_map(asked)
    head, maps = subject.trained.model.head, features(subject, asked.views[0].image)
    with torch.no_grad():
        space, context = head.reduce_space(maps[0]), head.context(maps[-2], maps[-1])
        large = functional.interpolate(context, size=space.shape[-2:], mode="bilinear")
        main = head.classify(torch.from_numpy(result.arrays["confidence"]) * space + large)
        close(main, head(maps)["main"], atol=1e-4)
        close(result.arrays["low_features"], head.reduce_low(maps[-2])[0])
    assert ("low" in result.arrays) == with_weights
    row, column = 20 * 12 // 48, 33 * 16 // 64
    assert result.numbers["confidence at the point"] == f"{result.arrays['confidence'][row, column]:.3f}"


# --- GALD -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "one"), [({}, 2), ({"ld_residual": "paper", "ld_downsample": "average"}, 1)])
@pytest.mark.parametrize("ga", ["none", "psp"])
def test_ldv1_mask_is_what_the_context_was_weighted_with(make: Any, ask: Any, options: Any, one: int, ga: str) -> None:
    stride = {"backbone.output_stride": 8, "augment.crop_px": [128, 128]}
    subject = make("gald", stride, ld="v1", ga=ga, channels=16, **options)
    asked = ask("ldv1_mask", subject)
    view = asked.views[0]._replace(
        image=np.tile(asked.views[0].image, (3, 3, 1)), mask=np.tile(asked.views[0].mask, (3, 3)), point=(100, 90)
    )
    result = gald.ldv1_mask(asked._replace(views=[view]))
    module = next(m for m in subject.trained.model.head.modules() if isinstance(m, MaskedDistribution))
    inputs, output = through(module, subject, view.image)
    g = inputs[-1]
    shrunk = g if module.down is None else module.down(g)
    if module.down is None:
        shrunk = functional.adaptive_avg_pool2d(g, [-(-n // 8) for n in g.shape[2:]])
    mask = functional.interpolate(shrunk, size=g.shape[2:], mode="bilinear", align_corners=True).sigmoid()
    close(result.arrays["mask"], mask[0])
    close((one + torch.from_numpy(result.arrays["mask"])) * g[0], output[0])
    close(result.arrays["mean"], mask[0].mean(0))
    assert len(inputs) == (1 if ga == "none" else 2)
    at = mask[0, :, 100 * 18 // 144, 90 * 24 // 192]
    assert result.numbers["at the point"].startswith(f"mean {at.mean():.3f}, {at.min():.3f} to {at.max():.3f}")


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize(("k", "r"), [(3, 1), (5, 2)])
def test_local_affinity_reproduces_the_heads_output(make: Any, ask: Any, point: Any, k: int, r: int) -> None:
    subject = make("gald", channels=16, kernel_size=k, dilation=r)
    asked = ask("local_affinity", subject, point)
    found = gald.local_affinity(asked).arrays
    ld = subject.trained.model.head.layers.context.ld
    (x, context), output = through(ld, subject, asked.views[0].image)
    both = torch.cat([context, x], 1)
    q, keys, v = (layer(both)[0].detach() for layer in (ld.query, ld.key, ld.value))
    row, column = point[0] * 6 // 48, point[1] * 8 // 64
    logits, values, inside = np.zeros((k, k)), torch.zeros(k, k, v.shape[0]), np.zeros((k, k), bool)
    for a, b in itertools.product(range(k), repeat=2):
        at = row + r * (a - k // 2), column + r * (b - k // 2)
        if 0 <= at[0] < 6 and 0 <= at[1] < 8:
            inside[a, b], values[a, b] = True, v[:, at[0], at[1]]
            logits[a, b] = q[:, row, column] @ keys[:, at[0], at[1]]
            close(found["taps_yx"][a, b], [8 * (n + 0.5) - 0.5 for n in at])
    weights = np.exp(logits - logits.max())
    close(found["affinity"], weights / weights.sum(), atol=1e-5)
    assert found["affinity"].sum() == pytest.approx(1, abs=1e-5)
    assert (found["inside"] == inside).all()
    assert not inside.all() or point == (20, 33)
    applied = (torch.from_numpy(found["affinity"])[..., None] * values).sum((0, 1))
    close(applied, output[0, :, row, column], atol=1e-4)
    assert (found["cell"].tolist(), found["map_size"].tolist()) == ([row, column], [6, 8])


# --- Denoised NL ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize(("rectify", "retain"), [(True, True), (True, False), (False, True)])
def test_attention_rows_are_the_naive_maps(make: Any, ask: Any, point: Any, rectify: bool, retain: bool) -> None:
    options = {"kernel_size": 3, "rectify_by": "logits"}
    options = {n: v for n, v in options.items() if (rectify if n == "rectify_by" else retain)}
    subject = make("denoised_nl", channels=16, global_rectifying=rectify, local_retention=retain, **options)
    asked = ask("attention_maps", subject, point)
    found = denoised_nl.attention_maps(asked).arrays
    block = subject.trained.model.head.attend
    (f, classes, *_), output = through(block, subject, asked.views[0].image)
    q, k, v = (layer(f)[0].detach().flatten(1) for layer in (block.query, block.key, block.value))
    rows, columns = f.shape[2:]
    i = (point[0] * rows // 48) * columns + point[1] * columns // 64
    newest = attention = (q.T @ k).softmax(1)
    close(found["attention"], attention[i].view(rows, columns))
    close(found["attention"].sum(), 1)
    if rectify:
        p = classes[0].flatten(1)
        newest = attention * (p.T @ p).sigmoid()
        close(found["rectified"], newest[i].view(rows, columns))
    if retain:  # A''_ij = sum over the 3 x 3 neighbours of key j, within the map
        smoothed = torch.zeros_like(newest)
        for j, dy, dx in itertools.product(range(rows * columns), (-1, 0, 1), (-1, 0, 1)):
            y, x = j // columns + dy, j % columns + dx
            if 0 <= y < rows and 0 <= x < columns:
                there = y * columns + x
                smoothed[:, j] += (q[:, j] @ k[:, there]).sigmoid() * newest[:, there]
        newest = smoothed
        close(found["retained"], newest[i].view(rows, columns))
    last = found["retained" if retain else "rectified"].ravel()
    y = block.gamma * (v @ torch.from_numpy(last)) + f[0].flatten(1)[:, i]
    close(y, output[0].flatten(1)[:, i], atol=1e-4)
    assert set(found) >= {"attention"}
    assert ("rectified" in found, "retained" in found) == (rectify, retain)
    assert found["cell"].tolist() == [i // columns, i % columns]


def test_attention_on_the_points_class_is_counted(make: Any, ask: Any) -> None:
    subject = make("denoised_nl", channels=16)
    asked = ask("attention_maps", subject, (20, 33))
    result = denoised_nl.attention_maps(asked)
    attention, mask = result.arrays["attention"], asked.views[0].mask
    total = own = 0.0
    rows, columns = attention.shape
    for row, column in itertools.product(range(rows), range(columns)):
        total += attention[row, column]
        if mask[int((row + 0.5) * 48 / rows), int((column + 0.5) * 64 / columns)] == mask[20, 33]:
            own += attention[row, column]
    name = subject.shards.class_names[mask[20, 33]]
    assert f"{own / total:.3f} of it on {name}" in result.numbers["A"]


# --- DFN ------------------------------------------------------------------------------------------------------------


def test_borders_are_the_outputs_of_training(make: Any, ask: Any) -> None:
    subject = make("dfn", {"backbone.output_stride": 32, "loss.border_width": 3}, channels=16)
    asked = ask("border_prediction", subject)
    result, view = dfn.border_prediction(asked), asked.views[0]
    model = subject.trained.model
    model.training = model.head.training = True  # these alone: batch norm keeps its statistics
    with torch.no_grad():
        outputs = model(to_device(view.image[None], torch.device("cpu"), channels_last=True))
    for level in (1, 2, 3, 4):
        close(result.arrays[f"border_{level}"], outputs[f"border_{level}"][0, 0].sigmoid(), atol=1e-5)
    mask = view.mask.astype(int)
    naive = np.zeros_like(mask, bool)
    for y, x in itertools.product(range(48), range(64)):
        for there in ((y, x + 1), (y + 1, x)):
            if there[0] < 48 and there[1] < 64 and mask[y, x] != mask[there] and 11 not in (mask[y, x], mask[there]):
                naive[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2] = True
    assert (result.arrays["border_truth"] == naive).all()
    assert (result.arrays["counted"] == (mask != 11)).all()


# --- any head -------------------------------------------------------------------------------------------------------


def test_errors_are_the_evaluations(make: Any, ask: Any) -> None:
    subject = make("fcn", {"test": {"scales": [0.5, 1.0], "flip": True}})
    against = make("psp", channels=16)
    asked = ask("error_map", subject, against=against)
    result, (sample,) = mistakes.error_map(asked), asked.samples
    wrong = []
    for each in (subject, against):
        trained = each.trained
        mask = evaluate.predict(trained.model, sample.image, torch.device("cpu"), torch.float32, trained.config.test)
        wrong.append((mask != sample.mask) & (sample.mask != 11))
    assert (result.arrays["wrong"] == wrong[0]).all()
    assert (result.arrays["against_wrong"] == wrong[1]).all()
    labelled = (sample.mask != 11).sum()
    assert result.numbers["wrong"] == f"{wrong[0].sum() / labelled:.2%} of {labelled} labelled pixels"
    alone = (wrong[0] & ~wrong[1]).sum() / labelled
    assert result.numbers["wrong with fcn-run alone"] == f"{alone:.2%}"


COMPUTED = {
    "class_variance": dgcw,
    "channel_weights": dfdam,
    "confidence_map": dfdam,
    "ldv1_mask": gald,
    "local_affinity": gald,
    "attention_maps": denoised_nl,
    "border_prediction": dfn,
}


@pytest.mark.parametrize("figure", COMPUTED)
def test_a_head_without_it_names_those_that_have_it(make: Any, ask: Any, figure: str) -> None:
    subject = make("fcn")
    with pytest.raises(UsageError, match=f"fcn head of fcn-run does not have what {figure} shows") as refused:
        getattr(COMPUTED[figure], figure)(ask(figure, subject, (3, 3)))
    assert catalogue.find(figure).heads in refused.value.fix
