"""How kernels are compiled: without reference counts, so without allocation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numba.core.errors import NumbaError

from tickpath.common.jit import always_inlined, inlined, kernel

SIGNATURE = "int64(int64[::1], int64)"


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes from the cache has no text that could be looked at."""
    monkeypatch.setenv("TICKPATH_CACHE", str(tmp_path))


def hands_on(helper: Callable[..., Any], **options: Any) -> Any:
    """A kernel that hands a part of its array to `helper`."""

    @kernel(SIGNATURE, **options)
    def total(array, n):  # type: ignore[no-untyped-def]
        found = 0
        for i in range(n):
            found += helper(array[i:])
        return found

    return total


def first(array):  # type: ignore[no-untyped-def]
    return array[0] if len(array) > 1 else 0


def counts_references(compiled: Any) -> bool:
    (text,) = compiled.inspect_llvm().values()
    return "NRT_incref" in text


@pytest.mark.parametrize("decorator", [inlined, always_inlined])
def test_an_array_that_is_handed_on_is_not_counted(decorator: Callable[..., Any]) -> None:
    lean, counted = hands_on(decorator(first)), hands_on(inlined(first, _nrt=True), _nrt=True)
    array = np.arange(5)
    assert lean(array, 5) == counted(array, 5) == 0 + 1 + 2 + 3
    assert counts_references(counted), "else this test would find nothing"
    assert not counts_references(lean)


def test_a_kernel_that_makes_an_array_does_not_compile_unless_it_says_so() -> None:
    def zeros(n):  # type: ignore[no-untyped-def]
        return np.zeros(n).size

    with pytest.raises(NumbaError, match=r"np\.zeros\(n\)"):
        kernel("int64(int64)")(zeros)
    assert kernel("int64(int64)", _nrt=True)(zeros)(3) == 3
