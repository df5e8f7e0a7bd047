"""Runs of whole numbers laid end to end."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sim.ragged import ranges


@given(st.lists(st.tuples(st.integers(-50, 50), st.integers(0, 5))))
def test_ranges_are_those_written_out(runs: list[tuple[int, int]]) -> None:
    first, width = np.array(runs, dtype=np.int64).reshape(-1, 2).T
    assert ranges(first, width).tolist() == [number for at, many in runs for number in range(at, at + many)]
