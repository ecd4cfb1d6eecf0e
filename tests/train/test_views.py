"""Views at test time against naive forms, pixel by pixel and scale by scale; what must change nothing does not."""

import json

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from tiny_run import TINY
from torch import nn
from torch.nn import functional

from rayseg import cli
from rayseg import config as configs
from rayseg.config import ViewConfig
from rayseg.data.reader import open_shards
from rayseg.errors import UsageError
from rayseg.schema import parse, to_dict
from rayseg.train import evaluate, review, views
from rayseg.train.inference import evaluate_run, load, predict_images
from rayseg.train.loop import fit
from rayseg.train.runtime import LocalRuntime


class Contextual(nn.Module):
    """A net whose answer at a pixel depends on all it sees, and on where it sees it from: no view is like another."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = torch.randn(4, 3, 3, 3, dtype=torch.float64, generator=generator)
        self.sizes = []

    def forward(self, x_BCHW):
        self.sizes.append(tuple(x_BCHW.shape[-2:]))
        context = x_BCHW.mean((2, 3), keepdim=True)
        return {"main": functional.conv2d(x_BCHW + 3 * context, self.weight, padding=1)}


@pytest.fixture
def image():
    return torch.randn(1, 3, 23, 31, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def naive_windows(model, x, window, stride, flip):
    """Collect, at every pixel, the probabilities of every window that covers it, by Python's own arithmetic."""
    height, width = x.shape[-2:]
    window = min(window[0], height), min(window[1], width)

    def starts(side, size, step):
        found, at = [], 0
        while at + size < side:
            found.append(at)
            at += step
        return [*found, side - size]

    seen = {}
    for top in starts(height, window[0], -(-window[0] * stride[0] // stride[1])):
        for left in starts(width, window[1], -(-window[1] * stride[0] // stride[1])):
            part = x[:, :, top : top + window[0], left : left + window[1]]
            given = [model(part)["main"].softmax(1)]
            if flip:
                mirrored = torch.from_numpy(part.numpy()[..., ::-1].copy())
                given.append(torch.from_numpy(model(mirrored)["main"].softmax(1).numpy()[..., ::-1].copy()))
            for y in range(window[0]):
                for z in range(window[1]):
                    seen.setdefault((top + y, left + z), []).extend(p[0, :, y, z] for p in given)
    out = torch.stack([torch.stack(seen[y, z]).mean(0) for y in range(height) for z in range(width)])
    return out.T.reshape(1, -1, height, width)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(
    ("window", "stride"),
    [((10, 10), (2, 3)), ((7, 31), (1, 1)), ((8, 40), (1, 2)), ((22, 30), (1, 4)), ((23, 16), (1, 3))],
)
def test_windows_average_every_look_at_a_pixel(image, window, stride, flip):
    config = ViewConfig(window_px=window, stride=stride[0] / stride[1], flip=flip)
    expected = naive_windows(Contextual(), image, window, stride, flip)
    assert torch.allclose(views.scores(Contextual(), image, config), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("side", "window", "stride"), [(2048, 832, 2 / 3), (1024, 769, 2 / 3), (100, 100, 0.5), (7, 3, 1)]
)
def test_windows_cover_everything_and_stay_inside(side, window, stride):
    boxes = list(views.windows((side, side), ViewConfig(window_px=(window, window), stride=stride)))
    covered = np.zeros((side, side), bool)
    for rows, columns in boxes:
        assert 0 <= rows.start < rows.stop <= side
        assert rows.stop - rows.start == columns.stop - columns.start == min(window, side)
        covered[rows, columns] = True
    assert covered.all()
    assert len(boxes) == max(1, -(-(side - window) // int(np.ceil(window * stride))) + 1) ** 2


def test_scales_and_mirrors_sum_probabilities(image):
    scales = (0.5, 1.0, 1.7)
    model, total = Contextual(), 0
    for scale in scales:
        size = (round(23 * scale), round(31 * scale))
        scaled = image if scale == 1 else functional.interpolate(image, size, mode="bilinear")
        for mirrored in (False, True):
            logits = model(scaled.flip(-1))["main"].flip(-1) if mirrored else model(scaled)["main"]
            found = torch.exp(torch.log_softmax(logits, 1))
            total = total + (found if scale == 1 else functional.interpolate(found, (23, 31), mode="bilinear"))
    found = views.scores(Contextual(), image, ViewConfig(scales=scales, flip=True))
    assert torch.allclose(found, total / 6, rtol=0, atol=1e-12)
    assert torch.allclose(found.sum(1), torch.ones(1, 23, 31, dtype=torch.float64), atol=1e-12)


@pytest.mark.parametrize("scales", [(0.5,), (0.75, 1.25), (1.0, 2.0, 0.5), (1.75, 1.5, 1.25, 1.0)])
def test_any_subset_of_scales_is_the_mean_of_its_members(image, scales):
    """A single scale is checked against the naive form above, so a set of them is too."""
    each = [views.scores(Contextual(), image, ViewConfig(scales=(s,), flip=True)) for s in scales]
    found = views.scores(Contextual(), image, ViewConfig(scales=scales, flip=True))
    assert torch.allclose(found, torch.stack(each).mean(0), rtol=0, atol=1e-12)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("window", [None, (10, 14)])
@pytest.mark.parametrize("scales", [(1.0,), (0.5, 1.0, 2.0)])
def test_any_subset_of_scales_windows_and_mirrors(image, scales, window, flip):
    """Each of the eight against windows averaged pixel by pixel, and maps resized and averaged here."""
    total = 0
    for scale in scales:
        size = (round(23 * scale), round(31 * scale))
        scaled = functional.interpolate(image, size, mode="bilinear")
        found = naive_windows(Contextual(), scaled, window or size, (2, 3), flip)
        total = total + functional.interpolate(found, (23, 31), mode="bilinear")
    config = ViewConfig(scales=scales, flip=flip, window_px=window)
    found = views.scores(Contextual(), image, config)
    single = config == ViewConfig()  # the logits as they are
    assert torch.allclose(found.softmax(1) if single else found, total / len(scales), rtol=0, atol=1e-12)


@pytest.mark.parametrize("stride", [2 / 3, 0.25, 1.0])
@pytest.mark.parametrize("window", [(5, 9), (23, 10), (22, 30)])
def test_windows_and_the_whole_agree_for_a_model_that_sees_single_pixels(image, window, stride):
    """What lies outside a window cannot matter to it, so any windows give the whole image's answer."""
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(4, 3, 1, 1, dtype=torch.float64, generator=generator)
    model = nn.Module()
    model.forward = lambda x: {"main": functional.conv2d(x, weight)}
    whole = views.scores(model, image, ViewConfig()).softmax(1)
    found = views.scores(model, image, ViewConfig(window_px=window, stride=stride))
    assert torch.allclose(found, whole, rtol=0, atol=1e-13)


@pytest.mark.parametrize("window", [(23, 31), (24, 31), (400, 400)])
@pytest.mark.parametrize("scales", [(1.0,), (0.5, 1.0)])
def test_a_window_that_covers_the_image_is_the_whole_image(image, window, scales):
    with_window = views.scores(Contextual(), image, ViewConfig(window_px=window, scales=scales, flip=True))
    assert torch.equal(with_window, views.scores(Contextual(), image, ViewConfig(scales=scales, flip=True)))


def test_the_window_is_of_the_scaled_image(image):
    model = Contextual()
    views.scores(model, image, ViewConfig(window_px=(20, 20), scales=(0.5, 2.0)))
    assert model.sizes[0] == (12, 16)  # 23 x 31 halved: round(11.5) is even 12
    assert set(model.sizes[1:]) == {(20, 20)}


@pytest.mark.parametrize("window", [None, (9, 14)])
def test_mirroring_changes_nothing_for_a_model_that_mirrors(image, window):
    class Pointwise(nn.Module):
        def forward(self, x_BCHW):
            return {"main": torch.cat([x_BCHW**2, x_BCHW.mean((2, 3), keepdim=True) * x_BCHW], 1)}

    plain, flipped = (ViewConfig(window_px=window, scales=(0.5, 1.0), flip=flip) for flip in (False, True))
    once, twice = (views.scores(Pointwise(), image, config) for config in (plain, flipped))
    assert torch.allclose(once, twice, rtol=0, atol=1e-13)


def test_one_whole_view_is_the_model_itself(image):
    assert torch.equal(views.scores(Contextual(), image, ViewConfig()), Contextual()(image)["main"])


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"scales": []}, "scales"),
        ({"scales": [0.0]}, "scales"),
        ({"scales": [1.0, 1.0]}, "each scale once"),
        ({"window_px": [0, 5]}, "window_px"),
        ({"window_px": [8, 8], "stride": 0.0}, "stride"),
        ({"window_px": [8, 8], "stride": 1.5}, "stride"),
        ({"stride": 0.5}, "would be ignored without window_px"),
        ({"flips": True}, "did you mean 'flip'"),
    ],
)
def test_what_does_not_hold_is_refused(given, says):
    with pytest.raises(UsageError, match=says):
        parse(ViewConfig, given, "test")


def test_a_config_survives_and_reads_well():
    config = ViewConfig(scales=(0.5, 1.0), flip=True, window_px=(832, 769))
    assert parse(ViewConfig, to_dict(config), "test") == config
    assert str(config) == "windows of 832x769 px at scales 0.5 1, and mirrored"
    assert str(ViewConfig()) == "whole images"


# --- in a run -------------------------------------------------------------------------------------------------------


class Silent:
    def __getattr__(self, name):
        return lambda *args, **kwargs: None


OWN = ViewConfig(scales=(0.75, 1.0), flip=True, window_px=(40, 64), stride=0.5)


@pytest.fixture(scope="module")
def trained(tiny_shards, tmp_path_factory):
    """Build a run with test settings of its own, and the views that were looked at while it trained."""
    folder, used, real = tmp_path_factory.mktemp("trained"), [], views.scores
    settings = {"data.shards": str(tiny_shards), "train.steps": 1, "train.eval_every": 1, "test": to_dict(OWN)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(views, "scores", lambda model, images, config: used.append(config) or real(model, images, config))
        config = configs.from_dict(configs.merged(TINY, settings))
        fit(config, LocalRuntime(folder, "cpu"), Silent(), show=lambda line: None)
    return folder, set(used)


def test_a_run_judges_itself_with_one_view_of_its_windows(trained):
    assert trained[1] == {ViewConfig(window_px=(40, 64), stride=0.5)}


def test_rayseg_evaluate_uses_the_runs_views_and_replaces_what_is_named(trained):
    folder, _ = trained

    def call(*options):
        result = CliRunner().invoke(cli.rayseg, ["evaluate", str(folder), "--json", *options], catch_exceptions=False)
        return json.loads(result.stdout.splitlines()[-1])["miou"], result.stderr

    def expected(**test):
        return evaluate_run(folder, None, None, views=ViewConfig(**test))["miou"]

    miou, said = call()
    assert miou == expected(**OWN.model_dump()) != expected()
    assert str(OWN) in said
    assert call("--window", "none", "--no-flip", "--scales", "1")[0] == expected()
    some = expected(scales=(0.5,), flip=True, window_px=(32, 32), stride=0.5)
    assert call("--scales", "0.5", "--window", "32x32")[0] == some


@pytest.mark.parametrize("given", [("--window", "24"), ("--window", "0x8"), ("--scales", "1,a"), ("--scales", "0")])
def test_unreadable_options_are_refused(trained, given):
    with pytest.raises(UsageError):
        CliRunner().invoke(cli.rayseg, ["evaluate", str(trained[0]), *given], catch_exceptions=False)


def test_prediction_uses_the_runs_views(trained, tmp_path):
    config = configs.from_dict(review.best_commit(trained[0]).state["config"])
    sample = open_shards(config.data.shards, "val").read(0)
    cv2.imwrite(str(tmp_path / "x.png"), sample.image[..., ::-1])
    mask, _ = predict_images(trained[0], [tmp_path / "x.png"], tmp_path / "out")
    model = load(trained[0], 11)
    wanted = [
        evaluate.predict(model.model, sample.image, model.runtime.device, model.precision, views)
        for views in (OWN, ViewConfig())
    ]
    found = cv2.imread(str(mask), cv2.IMREAD_UNCHANGED)
    assert (found == wanted[0]).all()
    assert (found != wanted[1]).any()


def test_evaluation_counts_what_the_views_predict(run_config, tmp_path):
    """The confusion matrix against one counted here, image by image, from the views' own scores."""
    config = run_config(test__scales=[0.5, 1.0], test__window_px=[30, 50], test__stride=0.5, train__shown_images=2)
    shards = open_shards(config.data.shards, "val")
    torch.manual_seed(0)
    model = nn.Conv2d(3, shards.num_classes, 3, padding=1)
    net = nn.Module()
    net.forward = lambda x: {"main": model(x)}
    result = evaluate.evaluate(net, shards, LocalRuntime(tmp_path, "cpu"), config=config, precision=torch.float32)
    counts = np.zeros_like(result.confusion.counts)
    for i in range(len(shards)):
        sample = shards.read(i)
        pixels = (torch.from_numpy(sample.image).double() - torch.tensor([123.675, 116.28, 103.53])) / torch.tensor(
            [58.395, 57.12, 57.375]
        )
        x = pixels.permute(2, 0, 1)[None].float()
        with torch.no_grad():
            label = sum(
                functional.interpolate(
                    naive_windows(net, functional.interpolate(x, size, mode="bilinear"), (30, 50), (1, 2), False),
                    (48, 64),
                    mode="bilinear",
                )
                for size in ((24, 32), (48, 64))
            ).argmax(1)[0]
        seen = sample.mask != shards.ignore_index
        np.add.at(counts, (sample.mask[seen], label.numpy()[seen]), 1)
    assert np.abs(counts - result.confusion.counts).sum() <= 4  # a pixel of 15360 where two classes tie
    assert len(result.shown) == 2


def test_what_is_free_and_what_decides_a_run(run_config):
    """Scales and flips are read after training alone; a window changes which commit is the best."""
    one = configs.digest(run_config())
    assert configs.digest(run_config(test__scales=[0.5], test__flip=True)) == one
    assert configs.digest(run_config(test__window_px=[40, 40])) != one
