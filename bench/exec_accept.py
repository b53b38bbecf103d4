"""Cost per order inside exec: accept (duplicate check, pool, UserRefNum), encode (OUCH from a template), journal.

Timed: `Orders.accept` from Python, with everything that it does per call, on a journal in a temporary folder, at
batch sizes of 1 and 64; and beside it, interleaved in the same run, the same bytes made by the plain codec
(`ouch50.ENTER_ORDER.encode`) with neither pool nor journal. Left out: the socket, the links, the waking of the loop.

    .venv/bin/python bench/exec_accept.py [--json]
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from tickpath.common.instruments import make_table
from tickpath.common.protocols import ouch50, soupbintcp
from tickpath.common.records import ORDER, Action, Side, format_cl_ord_id
from tickpath.exec.gateway import order_templates
from tickpath.exec.journal import Journal
from tickpath.exec.layout import Reg
from tickpath.exec.orders import Orders

ROUNDS = 1000
SIZES = (1, 64)


def batch_of(first: int, size: int) -> np.ndarray:
    """ORDER[size] with ids that were not used before."""
    orders = np.zeros(size, dtype=ORDER)
    orders["cl_ord_id"] = 1 << 56 | (first + np.arange(size)) << 8
    orders["price_ticks"], orders["qty_lots"] = 1_000_000, 100
    orders["action"], orders["side"] = Action.NEW, Side.BUY
    return orders


def with_codec(orders: np.ndarray, ref: int) -> bytes:
    """The same bytes from the codec."""
    out = b""
    for order in orders:
        out += soupbintcp.packet(
            soupbintcp.UNSEQUENCED,
            ouch50.ENTER_ORDER.encode(
                appendage={}, user_ref_num=ref, side="B", quantity=int(order["qty_lots"]), symbol="AAPL",
                price=int(order["price_ticks"]), time_in_force="0", display="Y", capacity="P", iso="N",
                cross_type="N", cl_ord_id=format_cl_ord_id(int(order["cl_ord_id"])),
            ),
        )  # fmt: skip
        ref += 1
    return out


def main() -> None:
    """Measure and print."""
    table = make_table([("AAPL", "0.0001", 100, 1, 1, "USD")])
    templates, send = order_templates(table), np.zeros(1 << 16, dtype=np.uint8)
    result: dict[str, object] = {
        "machine": f"{platform.machine()}, Linux {platform.release()}",
        "rounds": ROUNDS,
        "load": os.getloadavg()[0],
    }
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal.open(Path(folder), 1)
        orders = Orders(journal, table.array)
        ctx = orders.ctx
        ctx[Reg.SEND], ctx[Reg.SEND_SIZE] = send.ctypes.data, len(send)
        ctx[Reg.TEMPLATES], ctx[Reg.INSTRUMENTS], ctx[Reg.CONNECTED] = templates.ctypes.data, 1, 1
        orders.set_refusal(None)
        first = 1
        for size in SIZES:
            accept_ns, codec_ns = [], []
            for _ in range(ROUNDS):
                batch = batch_of(first, size)
                first += size
                ref = int(ctx[Reg.NEXT_REF])
                orders.tend(0)
                began = time.perf_counter_ns()
                orders.accept(batch, 1)
                accept_ns.append(time.perf_counter_ns() - began)
                began = time.perf_counter_ns()
                raw = with_codec(batch, ref)
                codec_ns.append(time.perf_counter_ns() - began)
                assert bytes(send[: int(ctx[Reg.SEND_TAIL])]) == raw  # noqa: S101 - the same bytes, or no comparison
                ctx[Reg.SEND_TAIL] = 0
            for name, taken in (("accept", accept_ns), ("codec", codec_ns)):
                least, p50, p99 = np.quantile(taken, (0, 0.5, 0.99)) / size
                result[f"{name}_ns_per_order_batch_{size}"] = {
                    "min": round(least),
                    "p50": round(p50),
                    "p99": round(p99),
                }
        journal.close()
    if "--json" in sys.argv:
        print(json.dumps(result))  # noqa: T201 - the result
    else:
        for key, value in result.items():
            print(f"{key}: {value}")  # noqa: T201 - the result


if __name__ == "__main__":
    main()
