"""Child process of a test: appends to a journal until it is killed; prints when it has begun."""

import sys
from pathlib import Path

import numpy as np

from services.exec.tests.conftest import Desk, new_order
from tickpath.exec.layout import Reg

desk = Desk(Path(sys.argv[1]), capacity=1 << 18, day_orders=1 << 18, entries=4096)
batch = np.repeat(new_order(1), 64)
numbers = np.arange(64)
print("begun", flush=True)  # noqa: T201 - the signal to the test
for first in range(1, 250_000, 64):
    batch["cause_seq"] = first + numbers
    batch["cl_ord_id"] = 1 << 56 | (first + numbers) << 8
    desk.orders.accept(batch, 1)
    desk.ctx[Reg.SEND_TAIL] = 0
