"""A share of a split: the same samples always, the smaller ones inside the larger ones."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayseg import config as configs
from rayseg.data import cursor
from rayseg.data.reader import open_shards
from rayseg.errors import CheckpointError, UsageError
from rayseg.tracking import NullTracker
from rayseg.train.feed import Feed, audit
from rayseg.train.loop import fit
from rayseg.train.runtime import LocalRuntime


@pytest.fixture(scope="module")
def whole(tiny_shards):
    return open_shards(tiny_shards, "train")


def keys(shards):
    return list(shards.index.key)


def test_a_share_is_by_the_keys_hash_alone(whole):
    """Naively, and of a part of the split: who else is there does not matter."""
    wanted = [k for k in keys(whole) if int(hashlib.sha256(k.encode()).hexdigest()[:16], 16) / 16**16 < 0.4]
    assert keys(whole.part(0.4)) == wanted
    assert 0 < len(wanted) < len(whole)
    assert keys(whole.part(0.7).part(0.4)) == wanted


@given(st.floats(0.2, 1), st.floats(0.2, 1))
def test_a_smaller_share_lies_in_a_larger_one(whole, one, other):
    low, high = sorted((one, other))
    assert set(keys(whole.part(low))) <= set(keys(whole.part(high)))


def test_the_whole_is_the_whole_and_shares_grow_to_it(whole):
    assert keys(whole.part(1)) == keys(whole)
    assert [len(whole.part(s)) for s in (0.25, 0.5, 0.75)] == pytest.approx([6, 12, 18], abs=5)


def test_samples_of_a_part_are_read_as_of_the_whole(whole):
    part = whole.part(0.5)
    for position, key in enumerate(keys(part)):
        sample = whole.read(keys(whole).index(key))
        assert part.read(position).key == sample.key == key
        assert (part.read(position).image == sample.image).all()


def test_a_share_of_nothing_is_refused(whole):
    with pytest.raises(UsageError, match=r"data\.share = 1e-09 of 24 samples is none"):
        whole.part(1e-9)


def config(tiny_shards, **settings):
    run = {
        "head": {"name": "fcn", "channels": 8},
        "backbone": {"name": "resnet10t", "output_stride": 32},
        "loss": {"aux_weight": 0.0},
        "augment": {"crop_px": [32, 32]},
        "train": {"steps": 6, "batch": 4, "eval_every": 6, "precision": "fp32", "shown_images": 0},
        "data": {"shards": str(tiny_shards), "val_samples": 2},
    }
    return configs.from_dict(configs.merged(run, settings))


def test_a_run_trains_on_its_share_alone_and_each_sample_once_an_epoch(tiny_shards, whole, tmp_path):
    half = config(tiny_shards, **{"data.share": 0.5})
    part = keys(whole.part(0.5))
    assert len(part) <= 6 * 4  # an epoch at least
    fit(half, LocalRuntime(tmp_path, "cpu"), NullTracker(), show=lambda _: None)
    said = audit(tmp_path, lambda _: None)
    assert not said.lost
    assert not said.repeated
    assert Feed(half, LocalRuntime(tmp_path, "cpu"), whole).state(6)["cursor"]["samples"] == len(part)


def test_another_share_is_another_run(tiny_shards, whole, tmp_path):
    half, most = (config(tiny_shards, **{"data.share": s}) for s in (0.5, 0.75))
    assert configs.digest(half) != configs.digest(most)
    assert cursor.digest(whole.part(0.5).index) != cursor.digest(whole.part(0.75).index)
    fit(half, LocalRuntime(tmp_path, "cpu"), NullTracker(), show=lambda _: None)
    with pytest.raises(CheckpointError, match=r"data\.share"):
        fit(most, LocalRuntime(tmp_path, "cpu"), NullTracker(), show=lambda _: None)
