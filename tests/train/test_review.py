"""What a run leaves for its reviewer, in a real spool."""

from __future__ import annotations

import pytest

from rayseg.tracking.spool import SpoolTracker
from rayseg.train.loop import fit
from rayseg.train.runtime import LocalRuntime


@pytest.mark.parametrize(("shown", "pictures"), [(0, set()), (1, {"predictions.png"})])
def test_predictions_are_handed_over_only_where_some_were_drawn(run_config, tmp_path, shown, pictures):
    config = run_config(train__shown_images=shown, train__steps=1, train__eval_every=1)
    summary = fit(config, LocalRuntime(tmp_path, "cpu"), SpoolTracker(tmp_path), show=lambda _: None)
    assert summary is not None
    assert summary.status == "finished"
    left = {path.name for path in (tmp_path / "tracking" / "artifacts").iterdir() if path.is_file()}
    assert left == {"config.json", "per_class.csv", "confusion_matrix.png"} | pictures
