"""A tiny run on the tiny drawn data set."""

import pytest
from tiny_run import TINY

from rayseg import config as configs


@pytest.fixture
def run_config(tiny_shards):
    """Build the tiny run's config, with dotted settings."""

    def build(**settings):
        dotted = {name.replace("__", "."): value for name, value in settings.items()}
        return configs.from_dict(configs.merged(TINY, {"data.shards": str(tiny_shards), **dotted}))

    return build
