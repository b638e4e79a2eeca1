import pytest

from analysis.numbers import quantity


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (950.0, "950"),
        (12.5e3, "12.5k"),
        (-190e3, "-190k"),
        (999_999, "1M"),
        (2442057984, "2.44B"),
        (1.1e12, "1.1T"),
    ],
)
def test_counts_read_well(value, text):
    assert quantity(value) == text
