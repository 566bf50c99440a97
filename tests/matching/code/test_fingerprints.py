"""Numbers are recognised in any order, and told apart where they are others."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from surgery.matching.code.fingerprints import (
    align_columns,
    align_elements,
    fingerprint,
    rounded,
)


def drawn(seed: int, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@given(st.integers(0, 2**31), st.integers(1, 200))
def test_any_order_has_one_fingerprint(seed, size):
    values = drawn(seed, size)
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    assert fingerprint(values) == fingerprint(values[order].view(1, -1))


@given(st.integers(0, 2**31), st.integers(1, 200), st.integers(0, 199))
def test_one_other_number_is_another_fingerprint(seed, size, place):
    values = drawn(seed, size)
    other = values.clone()
    other[place % size] += 1e-3
    assert fingerprint(values) != fingerprint(other)


def test_what_masks_does_not_hide_what_stands_beside_it():
    scores = drawn(0, 8, 8)
    masked = scores.masked_fill(torch.ones(8, 8).triu(1).bool(), float("-inf"))
    other = masked.clone()
    other[3, 1] += 1e-3
    assert fingerprint(masked) != fingerprint(other)
    assert fingerprint(masked) == fingerprint(masked.t())


@pytest.mark.parametrize("size", [1e-9, 1e-7])
def test_rounding_of_tables_counts_where_that_is_asked_for(size):
    values = drawn(1, 50)
    near = values + size * 10 * drawn(2, 50)
    with rounded():
        assert fingerprint(values) == fingerprint(near)
    assert fingerprint(values) != fingerprint(values + 1e-4)


@given(st.integers(0, 2**31), st.integers(1, 12), st.integers(1, 12))
def test_columns_and_elements_are_found_again(seed, rows, columns):
    values = drawn(seed, rows, columns)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(columns, generator=generator)
    tokens = torch.randperm(rows, generator=generator)
    found = align_columns(values, values[:, order])
    assert torch.equal(values[:, found], values[:, order])
    again = align_columns(values, values[tokens][:, order])
    assert torch.equal(values[tokens][:, again], values[tokens][:, order])
    places = align_elements(values, values[tokens])
    assert torch.equal(values.reshape(-1)[places], values[tokens].reshape(-1))


def test_other_numbers_are_not_aligned():
    assert align_columns(drawn(0, 4, 3), drawn(1, 4, 3)) is None
    assert align_columns(drawn(0, 4, 3), drawn(0, 4, 2)) is None
    assert align_elements(drawn(0, 4), drawn(1, 4)) is None
