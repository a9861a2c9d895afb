"""How files get damaged, as a hypothesis strategy."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import strategies as st


@st.composite
def damage(draw: st.DrawFn, early: int) -> Callable[[bytes], bytes]:
    """Cut, insert, overwrite, delete; at a fraction of the file, or within its ``early`` bytes."""
    spot = draw(st.floats(0, 1) | st.integers(0, early))
    data = draw(st.binary(max_size=12))
    kind = draw(st.sampled_from(["cut", "insert", "overwrite", "delete"]))

    def apply(original: bytes) -> bytes:
        at = int(spot * len(original)) if isinstance(spot, float) else min(spot, len(original))
        if kind == "cut":
            return original[:at]
        after = {"insert": at, "overwrite": at + len(data), "delete": at + 7}[kind]
        return original[:at] + data + original[after:]

    return apply
