"""Data: cards, pairs, shards and what reads them. `open_shards(path, split)` iterates samples: key, image, mask."""

from rayseg.data.reader import open_shards

__all__ = ["open_shards"]
