"""Where a figure was measured: stated beside each of them."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any


def machine() -> dict[str, Any]:
    """Processor, cores that this process may use now, whether it is a virtual one, kernel, Python, load."""
    about = Path("/proc/cpuinfo").read_text("utf-8", errors="replace").splitlines()
    models = (line.partition(":")[2].strip() for line in about if line.startswith("model name"))
    return {
        "cpu": next(models, platform.machine()),
        "cores": len(os.sched_getaffinity(0)),
        "virtualised": any(line.startswith("flags") and "hypervisor" in line for line in about),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 1),
    }


def describe_machine(about: dict[str, Any]) -> str:
    """`machine` in a line."""
    kind = "virtual " if about["virtualised"] else ""
    return (
        f"{about['cpu']}; {about['cores']} {kind}core{'s' * (about['cores'] != 1)}; Linux {about['kernel']}; "
        f"Python {about['python']}"
    )
