"""Augmentation: image and mask stay one, sizes and labels are what they say, and a plain resize-pad-crop agrees."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional as tv

from rayseg.data import augment
from rayseg.data.augment import PADDING, Augmentation, Config, Window
from rayseg.data.balance import Balance, weights
from rayseg.errors import DataError, UsageError
from rayseg.schema import parse, to_dict

IGNORE = 11
COLORS = np.random.default_rng(0).integers(0, 256, (12, 3), dtype=np.uint8)


def blocks(height=60, width=80, cell=10):
    """A mask of square blocks with labels 0..10 and an image that shows each label in its colour."""
    labels = np.random.default_rng(1).integers(0, 11, (-(-height // cell), -(-width // cell)), dtype=np.uint8)
    mask = labels.repeat(cell, 0).repeat(cell, 1)[:height, :width].copy()
    return COLORS[mask], mask


def away_from_borders(mask, reach):
    """Pixels whose neighbourhood lies in the crop and has one label."""
    kernel = np.ones((2 * reach + 1,) * 2, np.uint8)
    inner = cv2.erode(mask, kernel) == cv2.dilate(mask, kernel)
    inner[:reach], inner[-reach:], inner[:, :reach], inner[:, -reach:] = False, False, False, False
    return inner


sizes = st.integers(1, 97)
window_config = st.builds(
    lambda crop, low, ratio, flip: Config(crop_px=crop, scale=(low, low * ratio), flip=flip),
    st.tuples(sizes, sizes),
    st.floats(0.05, 3),
    st.floats(1, 4),
    st.booleans(),
)


@given(config=window_config, size=st.tuples(sizes, sizes), seed=st.integers(0, 2**32))
def test_every_scale_and_crop_gives_exactly_the_crop_and_no_new_label(config, size, seed):
    mask = np.random.default_rng(seed).integers(0, 11, size, dtype=np.uint8)
    image, cropped = augment.augment(COLORS[mask], mask, config, np.random.default_rng(seed), IGNORE)
    assert image.shape == (*config.crop_px, 3)
    assert cropped.shape == config.crop_px
    assert image.dtype == cropped.dtype == np.uint8
    assert set(np.unique(cropped)) <= {*np.unique(mask), IGNORE}
    assert (image[cropped == IGNORE] == PADDING).all()
    assert (cropped != IGNORE).any()


@pytest.mark.parametrize("seed", range(20))
def test_image_and_mask_stay_aligned(seed):
    image, mask = blocks()
    config = Config(crop_px=(70, 90), scale=(0.4, 3))
    image, mask = augment.augment(image, mask, config, np.random.default_rng(seed), IGNORE)
    colors = COLORS.copy()
    colors[IGNORE] = PADDING
    inner = away_from_borders(mask, 2)
    assert inner.any()
    np.testing.assert_array_equal(image[inner], colors[mask][inner])


def test_scale_one_and_the_full_crop_change_nothing():
    image, mask = blocks()
    config = Config(crop_px=(60, 80), scale=(1, 1), flip=False)
    same_image, same_mask = augment.augment(image, mask, config, np.random.default_rng(0), IGNORE)
    np.testing.assert_array_equal(same_image, image)
    np.testing.assert_array_equal(same_mask, mask)


@pytest.mark.parametrize("how", [cv2.INTER_LINEAR, cv2.INTER_NEAREST])
def test_flip_is_exact_at_scale_one(how):
    image, _ = blocks()
    window = Window((60, 80), top=7, left=-5, flipped=False)
    plain = augment.cut(image, window, (40, 88), how)
    flipped = augment.cut(image, window._replace(flipped=True), (40, 88), how)
    np.testing.assert_array_equal(flipped, plain[:, ::-1])
    np.testing.assert_array_equal(plain[:, 5:85], image[7:47])


def test_flip_happens_to_half_of_the_samples_and_only_if_asked():
    rng = np.random.default_rng(0)
    drawn = [augment.draw_window((60, 80), Config(crop_px=(32, 32)), rng).flipped for _ in range(2000)]
    assert 0.45 < np.mean(drawn) < 0.55
    never = Config(crop_px=(32, 32), flip=False)
    assert not any(augment.draw_window((60, 80), never, rng).flipped for _ in range(50))


def test_scale_is_log_uniform_and_the_crop_lies_anywhere():
    rng, config = np.random.default_rng(0), Config(crop_px=(300, 300), scale=(0.5, 2))
    windows = [augment.draw_window((400, 400), config, rng) for _ in range(4000)]
    octaves = np.log2([w.scaled_px[0] / 400 for w in windows])
    np.testing.assert_allclose(np.quantile(octaves, [0.1, 0.25, 0.5, 0.75, 0.9]), [-0.8, -0.5, 0, 0.5, 0.8], atol=0.06)
    for window in windows:
        room = window.scaled_px[0] - 300
        assert min(0, room) <= window.top <= max(0, room)
    fixed = [augment.draw_window((12, 12), Config(crop_px=(10, 10), scale=(1, 1)), rng) for _ in range(300)]
    assert {w.top for w in fixed} == {w.left for w in fixed} == {0, 1, 2}


def test_discrete_scales_are_drawn_evenly():
    rng, config = np.random.default_rng(0), Config(crop_px=(32, 32), scales=(0.5, 0.75, 1, 1.5, 1.75))
    drawn = [augment.draw_window((400, 400), config, rng).scaled_px[0] / 400 for _ in range(2000)]
    values, counts = np.unique(drawn, return_counts=True)
    assert values.tolist() == [0.5, 0.75, 1, 1.5, 1.75]
    assert counts.min() > 330


@pytest.mark.parametrize(
    "window",
    [
        Window((45, 60), 0, 0, False),
        Window((45, 60), -8, -13, True),
        Window((90, 120), 31, 17, False),
        Window((137, 183), 70, 0, True),
        Window((60, 80), 3, 5, False),
    ],
)
def test_agrees_with_a_plain_resize_pad_crop(window):
    smooth = cv2.GaussianBlur(np.random.default_rng(2).integers(0, 256, (60, 80, 3), dtype=np.uint8), (0, 0), 2)
    mask = blocks()[1]
    crop = (56, 88)
    resized = cv2.resize(smooth, window.scaled_px[::-1], interpolation=cv2.INTER_LINEAR)
    relabelled = tv.resize(torch.from_numpy(mask)[None], list(window.scaled_px), tv.InterpolationMode.NEAREST_EXACT)
    image, label = augment.cut(smooth, window, crop, cv2.INTER_LINEAR), augment.cut(mask, window, crop)
    augment._pad(image, window, PADDING)
    augment._pad(label, window, IGNORE)
    expected = padded_crop(resized, window, crop, PADDING)
    difference = np.abs(image.astype(int) - expected)
    assert difference.max() <= 3
    assert difference.mean() < 0.6
    assert (label == padded_crop(relabelled[0].numpy(), window, crop, IGNORE)).mean() > 0.995


def padded_crop(pixels, window, crop, value):
    """The crop by indexing, one axis after the other."""
    out = np.full((*crop, *pixels.shape[2:]), value, np.uint8)
    for y in range(crop[0]):
        for x in range(crop[1]):
            row, column = y + window.top, x + window.left
            if 0 <= row < pixels.shape[0] and 0 <= column < pixels.shape[1]:
                out[y, crop[1] - 1 - x if window.flipped else x] = pixels[row, column]
    return out


def test_chance_comes_from_the_generator_alone():
    image, mask = blocks()
    config = Config(crop_px=(48, 48), color_jitter=0.4)
    for seed in range(12):
        first = augment.augment(image, mask, config, np.random.default_rng([3, seed]), IGNORE)
        again = augment.augment(image, mask, config, np.random.default_rng([3, seed]), IGNORE)
        np.testing.assert_array_equal(first[0], again[0])
        np.testing.assert_array_equal(first[1], again[1])
        other = augment.augment(image, mask, config, np.random.default_rng([4, seed]), IGNORE)
        assert not np.array_equal(first[0], other[0])


def test_the_inputs_are_left_alone():
    image, mask = blocks()
    before = image.copy(), mask.copy()
    config = Config(crop_px=(60, 80), scale=(1, 1), flip=False, color_jitter=0.5)
    augment.augment(image, mask, config, np.random.default_rng(0), IGNORE)
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(mask, before[1])


def test_jitter_equals_torchvision_where_nothing_clips():
    image = np.random.default_rng(4).integers(90, 150, (40, 40, 3), dtype=np.uint8)
    ours = augment._jitter(image, 0.3, np.random.default_rng(9))
    brightness, contrast, saturation = np.random.default_rng(9).uniform(0.7, 1.3, 3)
    pixels = torch.from_numpy(image).permute(2, 0, 1).double() / 255
    theirs = tv.adjust_saturation(pixels, saturation)
    theirs = tv.adjust_brightness(tv.adjust_contrast(theirs, contrast), brightness)
    assert theirs.max() < 1
    np.testing.assert_allclose(ours, theirs.permute(1, 2, 0).numpy() * 255, atol=1.5)


def test_jitter_leaves_padding_and_labels_alone():
    image, mask = blocks()
    config = Config(crop_px=(200, 200), scale=(1, 1), flip=False)
    plain = augment.augment(image, mask, config, np.random.default_rng(0), IGNORE)
    jittered = augment.augment(
        image, mask, config.model_copy(update={"color_jitter": 0.5}), np.random.default_rng(0), IGNORE
    )
    np.testing.assert_array_equal(plain[1], jittered[1])
    outside = plain[1] == IGNORE
    assert (jittered[0][outside] == PADDING).all()
    assert (jittered[0][~outside] != plain[0][~outside]).mean() > 0.5


def test_config_round_trips():
    config = Config(crop_px=(320, 640), scales=(0.5, 1.0, 1.75), color_jitter=0.4)
    assert parse(Config, to_dict(config), "test") == config


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({}, "crop_px"),
        ({"crop_px": [0, 64]}, "crop_px.0 = 0"),
        ({"crop_px": [64]}, "crop_px"),
        ({"crop_px": [64, 64], "scale": [2.0, 0.5]}, "smaller one first"),
        ({"crop_px": [64, 64], "scale": [0.0, 2.0]}, "scale.0"),
        ({"crop_px": [64, 64], "scale": [0.7, 2.0], "scales": [1.0]}, "give one of them"),
        ({"crop_px": [64, 64], "scales": []}, "scales"),
        ({"crop_px": [64, 64], "color_jitter": 1.5}, "color_jitter"),
        ({"crop_px": [64, 64], "blur": -0.1}, "blur"),
        ({"crop_px": [64, 64], "class_uniform": 2}, "class_uniform"),
        ({"crop_px": [64, 64], "colour_jitter": 0.5}, "did you mean 'color_jitter'"),
    ],
)
def test_wrong_configs_are_refused_in_one_line(values, says):
    with pytest.raises(UsageError) as caught:
        parse(Config, values, "augment")
    assert says in str(caught.value)


def test_unequal_sizes_are_refused():
    image, mask = blocks()
    with pytest.raises(DataError, match="differ in size"):
        augment.augment(image, mask[:-1], Config(crop_px=(32, 32)), np.random.default_rng(0), IGNORE)


# --- the crop as it is ------------------------------------------------------------------------------------------------


@given(
    size=st.tuples(sizes, sizes),
    crop=st.tuples(sizes, sizes),
    seed=st.integers(0, 99),
)
@settings(max_examples=60)
def test_a_crop_at_scale_one_is_the_pixels_themselves(size, crop, seed):
    """Copied where it lies inside, warped where it does not: both are plain indexing."""
    mask = np.random.default_rng(0).integers(0, 11, size, dtype=np.uint8)
    window = augment.draw_window(size, Config(crop_px=crop, scale=(1, 1)), np.random.default_rng(seed))
    for pixels, value in ((mask, IGNORE), (COLORS[mask], PADDING)):
        for how in (cv2.INTER_NEAREST, cv2.INTER_LINEAR):
            found = augment.cut(pixels, window, crop, how)
            augment._pad(found, window, value)
            np.testing.assert_array_equal(found, padded_crop(pixels, window, crop, value))


def test_a_view_of_a_file_may_be_augmented():
    """A decoded split is mapped read-only."""
    image, mask = blocks()
    image.flags.writeable = mask.flags.writeable = False
    for scale in (1.0, 1.7):
        config = Config(crop_px=(40, 40), scale=(scale, scale), color_jitter=0.5, blur=1.0)
        found = augment.augment(image, mask, config, np.random.default_rng(0), IGNORE)
        assert found[0].shape == (40, 40, 3)


# --- blur -------------------------------------------------------------------------------------------------------------


def test_blur_is_scipys_gaussian_and_leaves_labels_and_padding_alone():
    from scipy.ndimage import gaussian_filter

    image, mask = blocks()
    config = Config(crop_px=(100, 120), scale=(1, 1), flip=False, blur=1.0)
    seen = 0
    for seed in range(8):
        rng = np.random.default_rng(seed)
        corner = augment.draw_window((60, 80), config, rng)[1:3]
        assert rng.random() < 1
        sigma = rng.uniform(0.15, 1.3)
        found, labels = augment.augment(image, mask, config, np.random.default_rng(seed), IGNORE)
        spread = np.pad(
            image.astype(float), ((-corner[0], 40 + corner[0]), (-corner[1], 40 + corner[1]), (0, 0)), "edge"
        )
        wanted = gaussian_filter(spread, (sigma, sigma, 0), mode="mirror", truncate=4)
        inside = labels != IGNORE
        np.testing.assert_array_equal(labels[inside], mask.ravel())
        assert (found[~inside] == PADDING).all()
        difference = np.abs(found.astype(float) - wanted)[inside]
        assert difference.max() < 6
        assert difference.mean() < 0.6
        seen += sigma > 0.5 and not np.array_equal(found[inside], image.reshape(-1, 3))
    assert seen > 2


def test_blur_happens_to_its_share_of_the_samples():
    image, mask = blocks()
    config = Config(crop_px=(60, 80), scale=(1, 1), flip=False, blur=0.3)
    rng = np.random.default_rng(0)
    changed = [not np.array_equal(augment.augment(image, mask, config, rng, IGNORE)[0], image) for _ in range(600)]
    assert 0.2 < np.mean(changed) < 0.33  # the faintest change nothing


# --- class-uniform crops ----------------------------------------------------------------------------------------------


@given(size=st.tuples(sizes, sizes), crop=st.tuples(sizes, sizes), seed=st.integers(0, 2**32), scale=st.floats(1, 4))
def test_a_crop_contains_the_class_it_was_placed_on(size, crop, seed, scale):
    """One pixel of the class, anywhere; enlarged at least to itself, so that no interpolation can lose it."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(size, np.uint8)
    mask[rng.integers(size[0]), rng.integers(size[1])] = 7
    config = Config(crop_px=crop, scale=(scale, scale))
    assert (augment.augment(COLORS[mask], mask, config, rng, IGNORE, label=7)[1] == 7).any()


def test_a_crop_placed_on_a_pixel_lies_anywhere_around_it():
    mask = np.zeros((50, 50), np.uint8)
    mask[25, 10] = 1
    config, rng = Config(crop_px=(8, 8), scale=(1, 1), flip=False), np.random.default_rng(0)
    places = [np.argwhere(augment.augment(COLORS[mask], mask, config, rng, IGNORE, label=1)[1])[0] for _ in range(800)]
    rows, columns = (np.bincount(one, minlength=8) for one in np.transpose(places))
    assert rows.min() > 60
    assert columns.min() > 60


def test_every_pixel_of_the_class_is_drawn_alike():
    mask = np.zeros((20, 20), np.uint8)
    mask[2, 3] = mask[2, 4] = mask[15, 15] = 1
    rng = np.random.default_rng(0)
    drawn = [augment._pixel_of(1, mask, rng) for _ in range(1500)]
    assert {place: 400 < drawn.count(place) < 600 for place in set(drawn)} == dict.fromkeys(
        [(2, 3), (2, 4), (15, 15)], True
    )


def test_weights_even_the_classes_out():
    """By chance alone a class in one sample of twenty is drawn twenty times less often than one in all."""
    rng = np.random.default_rng(0)
    present = rng.random((4000, 6)) < [1, 0.9, 0.5, 0.3, 0.2, 0.25]
    balance = Balance(np.hstack([present.astype(np.int64), np.ones((4000, 1), np.int64)]))
    expected = sum(balance.chances(i) for i in range(4000))
    np.testing.assert_allclose(expected, 4000 / 6, rtol=0.01)
    drawn = np.bincount([balance.draw(i, rng) for i in range(4000)], minlength=6)
    np.testing.assert_allclose(drawn, 4000 / 6, rtol=0.15)
    plain = (present / present.sum(1, keepdims=True)).sum(0)
    assert plain.max() / plain.min() > 5


def test_a_class_too_rare_to_be_even_is_drawn_where_it_is():
    present = np.ones((1000, 3), bool)
    present[10:, 2] = False
    balance = Balance(np.hstack([present.astype(np.int64), np.zeros((1000, 1), np.int64)]))
    expected = sum(balance.chances(i) for i in range(1000))
    assert expected[2] > 9.9
    np.testing.assert_allclose(expected[:2], 495, rtol=0.01)


def test_classes_that_never_occur_and_samples_without_labels():
    balance = Balance(np.array([[3, 0, 0, 1], [0, 0, 0, 4], [1, 2, 0, 0]]))
    rng = np.random.default_rng(0)
    assert balance.draw(1, rng) is None
    assert {balance.draw(2, rng) for _ in range(300)} == {0, 1}
    assert balance.chances(0).tolist() == [1, 0, 0]
    assert not weights(np.zeros((4, 3), bool)).any()
    no_label = np.full((9, 9), IGNORE, np.uint8)
    config = Config(crop_px=(5, 5), class_uniform=1.0)
    made = Augmentation(config, np.array([[0, 0, 81]]), IGNORE)
    assert made(0, COLORS[no_label], no_label, rng)[1].shape == (5, 5)


def test_weights_do_not_depend_on_how_many_rows_are_taken_at_once(monkeypatch):
    present = np.random.default_rng(3).random((500, 5)) < 0.4
    whole = weights(present)
    monkeypatch.setattr("rayseg.data.balance._ROWS", 37)
    np.testing.assert_allclose(weights(present), whole, rtol=1e-9)


def test_a_split_is_augmented_by_its_own_counts():
    """With `class_uniform` every crop has the rare class's pixel as often as the others'; without, hardly ever."""
    mask = np.zeros((64, 64), np.uint8)
    mask[30, 40] = 1
    counts = np.array([[64 * 64 - 1, 1, 0]])
    share = {}
    for uniform in (0.0, 1.0):
        made = Augmentation(Config(crop_px=(8, 8), scale=(1, 1), class_uniform=uniform), counts, IGNORE)
        rng = np.random.default_rng(0)
        share[uniform] = np.mean([(made(0, COLORS[mask], mask, rng)[1] == 1).any() for _ in range(400)])
    assert share[0.0] < 0.1
    assert 0.4 < share[1.0] < 0.65
