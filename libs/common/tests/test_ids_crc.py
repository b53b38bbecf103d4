"""Client order ids and CRC-32 inside kernels do what Python does."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickpath.common import records
from tickpath.common.kernels import ids
from tickpath.common.kernels.crc import crc32

PARTS = st.tuples(st.integers(1, 127), st.integers(0, 255), st.integers(0, 2**40 - 1), st.integers(0, 255))


@given(PARTS)
def test_ids_are_packed_written_and_read_as_the_records_module_does(parts):
    """The venue's 14 bytes are the same from both, and lead back to the same id and cause."""
    cl_ord_id = ids.pack_cl_ord_id(*parts)
    assert cl_ord_id == records.pack_cl_ord_id(*parts)
    buf = np.full(20, 0xEE, dtype=np.uint8)
    ids.write_cl_ord_id(cl_ord_id, buf, 3)
    assert buf.tobytes() == b"\xee" * 3 + records.format_cl_ord_id(cl_ord_id) + b"\xee" * 3
    assert ids.read_cl_ord_id(buf, 3) == cl_ord_id == records.parse_cl_ord_id(buf[3:17].tobytes())
    assert ids.cause_seq_of(cl_ord_id) == parts[2]


@pytest.mark.parametrize(
    "parts",
    [(0, 0, 0, 0), (128, 0, 0, 0), (1, 256, 0, 0), (1, -1, 0, 0), (1, 0, 2**40, 0), (1, 0, -1, 0), (1, 0, 0, 256)],
)
def test_parts_that_do_not_fit_make_no_id(parts):
    """-1 where Python raises."""
    assert ids.pack_cl_ord_id(*parts) == -1
    with pytest.raises(ValueError, match="no client order id"):
        records.pack_cl_ord_id(*parts)


@given(
    st.binary(min_size=14, max_size=14)
    | st.text("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", min_size=13, max_size=13).map(lambda t: b"T" + t.encode())
)
def test_text_that_is_no_id_is_refused_as_the_records_module_does(text):
    """-1 where Python raises, and where the digits hold more than the 63 bits of an id."""
    got = ids.read_cl_ord_id(np.frombuffer(text, dtype=np.uint8).copy(), 0)
    try:
        expected = records.parse_cl_ord_id(text)
    except ValueError:
        expected = -1
    assert got == (expected if expected < 2**63 else -1)


@given(st.binary(max_size=300), st.integers(0, 20), st.integers(0, 20))
def test_crc_equals_that_of_zlib_over_any_part(data, skip, drop):
    """All lengths around the eight bytes of a step, at any offset."""
    start, stop = min(skip, len(data)), max(len(data) - drop, min(skip, len(data)))
    assert crc32(np.frombuffer(data, dtype=np.uint8).copy(), start, stop) == zlib.crc32(data[start:stop])


def test_crc_of_the_check_string():
    """The published check value of CRC-32."""
    assert crc32(np.frombuffer(b"123456789", dtype=np.uint8).copy(), 0, 9) == 0xCBF43926
