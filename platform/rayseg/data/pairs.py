"""Pairs: which image belongs to which mask, by split and in the order of their keys."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from rayseg.data import images, names, scenes
from rayseg.data.card import Card, Generated
from rayseg.data.labels import Coded, Coding
from rayseg.data.manifest import KEY, MAX_FILE_BYTES
from rayseg.data.split import Split
from rayseg.errors import DataError, UsageError


class Pair(NamedTuple):
    """An image file and its mask file, whose labels are coded as `coding` says."""

    key: str
    image: Path
    mask: Path
    coding: Coding

    def load(self) -> tuple[bytes, bytes]:
        """Read both files as they will be stored: the image's bytes as they are, the mask as a grey PNG of labels.

        Raises:
            DataError: a file cannot be read or is larger than 64 MiB, or the mask is not what the card says.
        """
        image, mask = self.source()
        return image, self.coded(mask).mask

    def source(self) -> tuple[bytes, bytes]:
        """Read both files as they lie there."""
        return _read(self.image), _read(self.mask)

    def coded(self, mask: bytes) -> Coded:
        """Turn the mask file's bytes into what is stored."""
        return self.coding.coded(mask, self.mask)

    def signature(self) -> tuple[int, str]:
        """Give the bytes of both files together, and a text that changes when one of them is written to or replaced."""
        found = [_stat(path) for path in (self.image, self.mask)]
        marks = [f"{s.st_ino} {s.st_size} {s.st_mtime_ns} {s.st_ctime_ns}" for s in found]
        return sum(s.st_size for s in found), " ".join([self.key, *marks])


class Drawn(NamedTuple):
    """A pair whose pixels are drawn when they are asked for; `image` and `mask` name no files but what is drawn."""

    key: str
    seed: int
    number: int
    height: int
    width: int

    @property
    def image(self) -> str:
        """What an error calls the image."""
        return f"scene {self.key}"

    @property
    def mask(self) -> str:
        """What an error calls the mask."""
        return f"mask of scene {self.key}"

    def load(self) -> tuple[bytes, bytes]:
        """Draw image and mask and encode both as PNG."""
        image, mask = scenes.draw(self.seed, self.number, height=self.height, width=self.width)
        return images.encode_png(image), images.encode_png(mask)

    def source(self) -> tuple[bytes, bytes]:
        """Draw both, as `load` does: there are no files."""
        return self.load()

    def coded(self, mask: bytes) -> Coded:
        """Take the mask as it was drawn."""
        return Coded(mask, {}, 0)

    def signature(self) -> tuple[int, str]:
        """Give a bound of the bytes of both, and what they are drawn from."""
        return 3 * self.height * self.width, " ".join(map(str, self))


Pairs = dict[str, list[Pair | Drawn]]


def find(card: Card, root: str | Path | None) -> Pairs:
    """List each stored split's pairs, sorted by key. `root` is the folder that the card's patterns start from.

    Raises:
        UsageError: a card of files without a root, or a drawn one with it.
        DataError: a folder or a listed file is missing, an image has no mask or a mask no image, or two files come to
            one key.
    """
    if card.generated is not None:
        if root is not None:
            raise UsageError(f"'{card.name}' is drawn, not read", "--root", "leave --root away")
        return _drawn(card.splits, card.generated)
    if root is None:
        raise UsageError(f"'{card.name}' is read from files", "--root", f"name the folder they lie in; {card.home}")
    if not os.path.isdir(root):  # also where a folder above it is closed to us
        raise DataError("no such folder", root, f"--root names the one that {card.name} lies in; {card.home}")
    coding, stored = Coding(card), {name: split for name, split in card.splits.items() if split.stored}
    found = {name: _of_split(Path(root), split, coding, card.home) for name, split in stored.items()}
    _refuse_overlap(found)
    return found


def survey(card: Card, root: Path) -> dict[str, int | str]:
    """Count the pairs of each stored split below `root`, or say why there are none."""
    coding, said = Coding(card), dict[str, int | str]()
    for name, split in card.splits.items():
        try:
            if split.stored:
                said[name] = len(_of_split(root, split, coding, card.home))
        except DataError as error:
            said[name] = f"{name}: {error.what} ({error.where.removeprefix(f'{root}/')})"
    return said


def _drawn(splits: Mapping[str, Split], how: Generated) -> Pairs:
    """Splits differ by their seed and not by a range of indices: a longer train split leaves val as it is."""
    return {
        name: [Drawn(f"{name}_{i:06d}", how.seed + offset, i, how.height, how.width) for i in range(split.count or 0)]
        for offset, (name, split) in enumerate(splits.items())
        if split.stored
    }


def _of_split(root: Path, split: Split, coding: Coding, home: str) -> list[Pair | Drawn]:
    chosen = names.chosen(root, split, home)
    found = _files(root, split.images or "", chosen, home)
    masks = _files(root, split.masks or "", chosen, home)
    if alone := sorted(found.keys() - masks.keys()):
        raise DataError(f"{len(alone)} images without a mask", found[alone[0]], f"no such {split.masks}; add or remove")
    if alone := sorted(masks.keys() - found.keys()):
        raise DataError(
            f"{len(alone)} masks without an image", masks[alone[0]], f"no such {split.images}; add or remove"
        )
    pairs: list[Pair | Drawn] = [Pair(_key(stem, path), path, masks[stem], coding) for stem, path in found.items()]
    pairs.sort(key=lambda pair: pair[:2])
    for one, other in pairwise(pairs):
        if one.key == other.key:
            raise DataError(f"two images come to the key {one.key}: {one.image}", other.image, "rename one of them")
    return pairs


def _files(root: Path, pattern: str, chosen: names.Chosen, home: str) -> dict[str, Path]:
    """Find the pattern's files by what its `*` stands for."""
    shape = re.compile(re.escape(pattern).replace(r"\*", "([^/]*)"))
    hits = {path.relative_to(root).as_posix(): path for path in _hits(root, pattern, home)}
    found = {"/".join(hit.groups()): hits[name] for name in hits if (hit := shape.fullmatch(name))}
    kept = {stem: path for stem, path in found.items() if chosen.takes(stem)}
    if missing := chosen.missing(kept):
        what = f"{len(missing)} names of the list have no file, such as {missing[0]}"
        fix = f"a name is what * stands for, without extension or spaces; is all of the data there? {home}"
        raise DataError(what, root / pattern, fix)
    if not kept:
        raise DataError("no file", root / pattern, f"the data comes from {home}")
    return kept


def _hits(root: Path, pattern: str, home: str) -> list[Path]:
    """Search; a folder that is closed to us is said, for a search alone would take it for an empty one."""
    folder = root.joinpath(*_fixed(pattern))
    try:
        os.scandir(folder).close()
        return [path for path in root.glob(pattern) if path.is_file()]
    except (FileNotFoundError, NotADirectoryError):
        fix = f"{root} has to hold {pattern}; the data comes from {home}"
        raise DataError("missing folder", folder, fix) from None
    except OSError as error:
        raise DataError(f"cannot read the folder: {error.strerror}", folder, "mend its permissions") from None


def _fixed(pattern: str) -> tuple[str, ...]:
    parts = PurePosixPath(pattern).parent.parts
    return parts[: next((i for i, part in enumerate(parts) if "*" in part), len(parts))]


def _key(stem: str, path: Path) -> str:
    key = re.sub(r"[^A-Za-z0-9_-]", "_", stem)
    if not re.fullmatch(KEY, key):
        raise DataError(f"a key of {len(key)} characters", path, "the file's name gives it: use 1 to 90")
    return key


def _refuse_overlap(found: Pairs) -> None:
    first = dict[str, tuple[str, Pair | Drawn]]()
    both = list[tuple[str, Pair | Drawn]]()
    for split, pairs in found.items():
        both += [(split, pair) for pair in pairs if first.setdefault(pair.key, (split, pair))[0] != split]
    for split, pair in both[:1]:
        other, twin = first[pair.key]
        what = f"{len(both)} keys are in two splits, such as '{pair.key}' in {split} and, as {twin.image}, in {other}"
        fix = "an image in two splits spoils the score: take it out of one, or rename what is another image"
        raise DataError(what, pair.image, fix)


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise _unreadable(path, error) from None


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise DataError(f"file of {path.stat().st_size} bytes", path, f"at most {MAX_FILE_BYTES // 2**20} MiB")
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(f"cannot read the file: {error.strerror}", path, "mend its permissions, or fetch it")
