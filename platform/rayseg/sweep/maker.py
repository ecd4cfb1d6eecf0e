"""Makes the trials of a search that decides as it goes: each one checked whole, with a key that no other has."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple, final

from rayseg import segmenter
from rayseg.config import RunConfig
from rayseg.errors import UsageError
from rayseg.sweep.origin import Base
from rayseg.sweep.search import Donor
from rayseg.sweep.space import Point
from rayseg.sweep.trial import Trial, built, describe


class Model(NamedTuple):
    """What a config builds: its fingerprint, and the shapes of all that a commit has of it."""

    fingerprint: str
    shapes: dict[str, tuple[int, ...]]


@final
class Maker:
    """Numbers the trials of one sweep over `base`.

    With `num_classes` every new model is built on the meta device: one that is trained like another's is its twin.
    """

    def __init__(self, base: Base, num_classes: int | None = None) -> None:
        self.base, self.num_classes = base, num_classes
        self.trials: dict[str, Trial] = {}
        self.parameters: dict[str, int] = {}
        self._models: dict[str, Model] = {}
        self._alike: dict[tuple[str, str], str] = {}

    def config(self, point: Mapping[str, object]) -> RunConfig:
        """Give the config of a point.

        Raises:
            UsageError: it does not hold.
        """
        return self.base.trial(len(self.trials) + 1, dict(point)).config

    def known(self, trials: Sequence[Trial]) -> None:
        """Take in trials that were made elsewhere: numbers go on after theirs, and their points count as tried."""
        for trial in trials:
            self.trials[trial.key] = trial
            self._twin(trial)

    def new(self, point: Point) -> Trial | str:
        """Make the trial of a point; where it was made before, or one that is the same run, give that one's key.

        Raises:
            UsageError: its config does not hold, or its model or loss cannot be built.
        """
        trial = self.base.trial(len(self.trials) + 1, point)
        if trial.key in self.trials:
            return trial.key
        if (twin := self._twin(trial)) != trial.key:
            return twin
        self.trials[trial.key] = trial
        return trial

    def model(self, config: RunConfig) -> Model:
        """Say what a config builds; configs that share a model build it once."""
        wanted = config.model(self.num_classes or 2)
        known = wanted.model_dump_json()
        if known not in self._models:
            skeleton = segmenter.skeleton(wanted)
            shapes = {name: tuple(t.shape) for name, t in skeleton.state_dict().items()}
            self._models[known] = Model(segmenter.fingerprint(skeleton), shapes)
        return self._models[known]

    def _twin(self, trial: Trial) -> str:
        if self.num_classes is None:
            return trial.key
        proof = built([trial], self.num_classes)[0]
        self.parameters[trial.key] = proof.parameters
        return self._alike.setdefault((proof.fingerprint, proof.outside), trial.key)

    def seeded(self, point: Point, seed: int) -> Trial:
        """Make a point's trial with another seed.

        Raises:
            UsageError: its config does not hold, or there is that trial.
        """
        trial = self.base.trial(len(self.trials) + 1, {**point, "seed": seed})
        if trial.key in self.trials:
            raise UsageError(f"trial {trial.key} has that seed", describe(trial.point), "choose another seed")
        self.trials[trial.key] = trial
        return trial

    def onward(self, donor: Donor, point: Point) -> Trial:
        """Make a trial of a point that goes on from a donor: another run than the point's own, and than its siblings.

        Raises:
            UsageError: its config does not hold.
        """
        trial = self.base.trial(len(self.trials) + 1, point)
        origin = f"{trial.key} {donor.key} {donor.step} {trial.number}"
        trial = trial._replace(key=hashlib.sha256(origin.encode()).hexdigest()[:8])
        if trial.key in self.trials:  # one of four thousand million
            raise UsageError(f"two trials have the key {trial.key}", describe(point), "choose another seed")
        self.trials[trial.key] = trial
        return trial
