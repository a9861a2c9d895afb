"""What the property tests share: how many examples, and values of JSON."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

FEW = settings(max_examples=25)
"""Enough for wide mistakes: there are many property tests."""


def json_values(*numbers: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Small nested values of JSON whose numbers are drawn from ``numbers``."""
    return st.recursive(
        st.one_of(st.none(), st.booleans(), st.text(max_size=5), *numbers),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
        max_leaves=6,
    )
