"""Values refuse what would be ignored, and say it in one line."""

import pytest
from pydantic import model_validator

from rayseg.errors import UsageError
from rayseg.schema import Value, parse, to_dict


class Inner(Value):
    rate: float = 0.1
    sizes: tuple[int, ...] = (1, 2)


class Outer(Value):
    count: int = 3
    inner: Inner = Inner()


class Range(Value):
    low: int = 0
    high: int = 1

    @model_validator(mode="after")
    def _ordered(self):
        if self.low > self.high:
            raise ValueError(f"low = {self.low} is above high: swap them")
        if self.low < 0:
            raise ValueError("low below 0")
        return self


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"low": 2}, "low = 2 is above high (here): swap them"),
        ({"low": -1}, '{"low": -1} (here): low below 0'),
        ([1], "[1] (here): Input should be an object"),
    ],
)
def test_a_fault_of_the_whole_value_has_no_empty_field(given, line):
    with pytest.raises(UsageError) as caught:
        parse(Range, given, "here")
    assert str(caught.value) == line


def test_round_trip():
    value = Outer(count=5, inner=Inner(rate=1e-3, sizes=(7,)))
    assert parse(Outer, to_dict(value), "x") == value


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"cuont": 1}, ["unknown key 'cuont'", "did you mean 'count'"]),
        ({"inner": {"rat": 1.0}}, ["unknown key 'inner.rat'", "did you mean 'rate'"]),
        ({"count": "7"}, ["count", '"7"']),
        ({"count": 1.5}, ["count = 1.5"]),
        ({"count": True}, ["count = true"]),
        ({"inner": {"rate": float("nan")}}, ["inner.rate"]),
        ({"inner": {"rate": float("inf")}}, ["inner.rate"]),
        ({"inner": 4}, ["inner = 4"]),
        ({"inner": {"sizes": [1, "a"]}}, ["inner.sizes.1"]),
    ],
)
def test_fault_names_field_value_and_what_is_valid(given, says):
    with pytest.raises(UsageError) as caught:
        parse(Outer, given, "here")
    line = str(caught.value)
    assert all(part in line for part in [*says, "(here)"]), line
    assert "\n" not in line
    assert len(line) <= 300


def test_values_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Outer().count = 4
