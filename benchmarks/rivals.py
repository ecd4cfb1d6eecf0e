"""Other loaders of the same samples, each as its own documentation writes it: what benchmarks/loader.py compares with.

All give batches of 16 crops of 256 x 256, half of them mirrored, as uint8, decoded by OpenCV in one thread; each reads
the same JPEG or PNG bytes, from files, from our own shards (plain WebDataset tars), or from its own format.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from rayseg.data.reader import ShardSet

BATCH, CROP = 16, 256
Epoch = Callable[[], int]
"""Go through the split once and say how many samples came."""


def crop(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Cut out a random square and mirror half of them."""
    top, left = (int(rng.integers(0, side - CROP, endpoint=True)) for side in mask.shape)
    image, mask = (x[top : top + CROP, left : left + CROP] for x in (image, mask))
    if rng.random() < 0.5:
        image, mask = cv2.flip(image, 1), cv2.flip(mask, 1)
    return np.ascontiguousarray(image), np.ascontiguousarray(mask)


def decoded(image: Any, mask: Any) -> tuple[np.ndarray, np.ndarray]:
    """Decode as the limit does."""
    pixels = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR_RGB)
    return pixels, cv2.imdecode(np.frombuffer(mask, np.uint8), cv2.IMREAD_UNCHANGED)


def tensors(image: bytes, mask: bytes, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Decode, crop and mirror a sample."""
    pixels, labels = crop(*decoded(image, mask), rng)
    return torch.from_numpy(pixels), torch.from_numpy(labels)


class Files(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """A folder of files, read one by one."""

    def __init__(self, folder: Path) -> None:
        self.masks = sorted(folder.glob("*.mask.png"))
        self.images = [next(path.parent.glob(f"{path.name.split('.')[0]}.[jp][pn]g")) for path in self.masks]
        self.rng = np.random.default_rng(0)

    def __len__(self) -> int:
        return len(self.masks)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return tensors(self.images[index].read_bytes(), self.masks[index].read_bytes(), self.rng)


def files(shards: ShardSet, folder: Path, workers: int) -> Epoch:
    """A torch Dataset over a folder of files, and torch's DataLoader."""
    folder.mkdir(exist_ok=True)
    for row in range(len(shards)):
        image, mask = shards._bytes(row, "")
        key = shards.index.key[row]
        (folder / f"{key}.{shards.index.image_ext[row]}").write_bytes(image)
        (folder / f"{key}.mask.png").write_bytes(mask)
    loader = DataLoader(Files(folder), BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0)
    return lambda: sum(len(images) for images, _ in loader)


def webdataset(shards: ShardSet, folder: Path, workers: int) -> Epoch:
    """WebDataset over our own shards, shuffled within 100 samples."""
    import webdataset as wds

    rng, extension = np.random.default_rng(0), str(shards.index.image_ext[0])

    def decode(sample: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        return tensors(sample[extension], sample["mask.png"], rng)

    urls = sorted({f"{shards.folder}/{name}" for name in shards.index.shard})
    # WebDataset refuses more workers than shards, so two of them take the shards turn by turn.
    stream = wds.WebDataset(urls, shardshuffle=len(urls), seed=0).shuffle(100, seed=0).map(decode).batched(BATCH)
    loader = wds.WebLoader(stream, batch_size=None, num_workers=workers, persistent_workers=workers > 0)
    return lambda: sum(len(images) for images, _ in loader)


def litdata(shards: ShardSet, folder: Path, workers: int) -> Epoch:
    """LitData's own chunks of 64 MB, streamed from the disk."""
    import litdata as ld

    class Samples(ld.StreamingDataset):  # type: ignore[misc]
        rng = np.random.default_rng(0)

        def __getitem__(self, index: Any) -> tuple[torch.Tensor, torch.Tensor]:
            sample = super().__getitem__(index)
            return tensors(sample["image"], sample["mask"], self.rng)

    if not folder.exists():
        folder.mkdir()
        cache = ld.streaming.Cache(str(folder), chunk_bytes="64MB")
        for row in range(len(shards)):
            image, mask = (bytes(part) for part in shards._bytes(row, ""))
            cache[row] = {"image": image, "mask": mask}
        cache.done()
        cache.merge()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loader = ld.StreamingDataLoader(
            Samples(str(folder), shuffle=True), batch_size=BATCH, num_workers=workers, persistent_workers=workers > 0
        )
    return lambda: sum(len(images) for images, _ in loader)


def available() -> Iterator[tuple[str, Callable[[ShardSet, Path, int], Epoch]]]:
    """Name the loaders that are installed here."""
    yield "folder of files, DataLoader", files
    yield "webdataset", webdataset
    try:
        import litdata as _  # noqa: F401
    except ImportError:
        return
    yield "LitData", litdata
