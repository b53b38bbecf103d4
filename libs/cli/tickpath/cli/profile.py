"""``tickpath profile``: where the time of a running service goes, as a flame graph that py-spy samples from outside.

The process is not stopped for a sample unless frames of native code are wanted (``--native``), which needs that. A
kernel is native code: its time is that of the line of Python that called it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tickpath.cli.control import ControlError, System
from tickpath.cli.runs import RunError
from tickpath.common.config import SERVICES
from tickpath.common.pages import Control, Hot, Page, PageError, hot_page_path, side_page_path

#: What can be profiled: each hot process, and with ``.side`` behind the name the process beside it.
TARGETS: Final = (*SERVICES, "sim")

_FUSED: Final = "tickpath.cli.fused.hot"  # the hot process of all four services in the fused lane
_RATE: Final = 250  # samples per second
_NATIVE_RATE: Final = 50  # unwinding a native stack takes milliseconds, during which the process stands still
_PATIENCE_S: Final = 30.0  # for py-spy to begin and to write
_HOTTEST: Final = 3
_TITLE: Final = re.compile(r'(<text id="title"[^>]*>)[^<]*(</text>)')
_SYS_PTRACE: Final = 19  # bit of the capability, see capabilities(7)
_EXITED: Final = "process exited"
_DENIED: Final = ("permission denied", "not permitted", "eperm", "eacces")
_GONE: Final = ("check that the process is running", "no such process", "no such file", "esrch", _EXITED)


class ProfileError(ControlError):
    """A process cannot be profiled; the message says why and what to do."""


def split_target(target: str) -> tuple[str, bool]:
    """(service, whether its side process is meant) of ``SERVICE`` or ``SERVICE.side``. Raises RunError."""
    service, dot, kind = target.partition(".")
    if service not in TARGETS or (dot and kind not in ("hot", "side")):
        msg = f"there is no service {target!r}; there are {', '.join(TARGETS)}, and SERVICE.side for its side process"
        raise RunError(msg)
    return service, kind == "side"


def find_process(system: System, service: str, *, side: bool = False) -> int:
    """Process id, as this process sees it, of the hot or side process of a service. Raises ProfileError.

    The number comes from the page, or where that is out of reach (another container) from ``/status``. A container
    numbers its processes itself, so the number is looked up among all processes that are to be seen.
    """
    modules = {f"tickpath.{service}"} if side else {f"tickpath.{service}.hot", _FUSED}
    try:
        number = _number_in_page(system.run_dir, service, side=side)
    except PageError:
        try:
            number = int(system[service].ask("GET", "/status")["pid"])
        except ControlError as error:
            msg = (
                f"{service} does not run: it has no page in {system.run_dir}, and {error}; `tickpath up` or `tickpath"
                " demo` starts a system, --run-dir or --config names another one"
            )
            raise ProfileError(msg) from None
        if side:  # /status names the hot process, which the side process has started
            return int(_status_of(_look_up(number, service, {f"tickpath.{service}.hot"}))["PPid"])
    return _look_up(number, service, modules)


def _number_in_page(run_dir: Path, service: str, *, side: bool) -> int:
    if side:
        return int(Page.open(side_page_path(run_dir, service))["control"][Control.SIDE_PID])
    return int(Page.open(hot_page_path(run_dir, service))["hot"][Hot.PID])


def _look_up(number: int, service: str, modules: set[str]) -> int:
    """The one process that runs one of these modules and calls itself `number`. Raises ProfileError."""
    found = [pid for pid in _visible() if _runs(pid, modules, number)]
    if number in found:  # not in a container, or in the same one
        return number
    if len(found) != 1:
        seen = (
            f"processes {', '.join(map(str, found))} fit" if found else "no such process is to be seen: it has ended"
        )
        msg = f"the process of {service} says that it is {number}, and {seen}"
        raise ProfileError(msg)
    return found[0]


def _visible() -> list[int]:
    return [int(path.name) for path in Path("/proc").glob("[0-9]*")]


def _status_of(pid: int) -> dict[str, str]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text("utf-8").splitlines()
    except OSError:
        return {}
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _runs(pid: int, modules: set[str], number: int) -> bool:
    """Whether this process runs one of these modules and calls itself `number`."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_text("utf-8", errors="replace").split("\0")
    except OSError:
        return False
    return not modules.isdisjoint(words) and _status_of(pid).get("NSpid", str(pid)).split()[-1] == str(number)


def run_profile(
    system: System,
    target: str,
    *,
    seconds: float,
    native: bool,
    out: Path | None,
    as_json: bool,
    say: Callable[[str], None],
) -> int:
    """Sample, write the flame graph, print where it is and which functions were hottest; the exit status.

    Ctrl-C ends the sampling early; what was seen until then is written. Raises ProfileError, RunError.
    """
    service, side = split_target(target)
    path = out or Path(f"profile-{target}.svg")
    _check_out(path)
    pid = find_process(system, service, side=side)
    name = f"{service}.{'side' if side else 'hot'}"
    say(f"{name} (process {pid}) is sampled for {seconds:g} s" + (", and stopped for each sample" if native else ""))
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        said = _sample(pid, name, seconds, draft, native=native)
        graph = _TITLE.sub(rf"\g<1>{name}, {seconds:g} s\g<2>", draft.read_text("utf-8"), count=1)
        total, own = self_samples(graph)
        path.write_text(graph, "utf-8")
    except ET.ParseError as error:
        msg = f"py-spy wrote no flame graph ({error}); it said: {said}"
        raise ProfileError(msg) from None
    finally:
        draft.unlink(missing_ok=True)
    if _EXITED in said:
        say(f"{name} (process {pid}) ended while it was sampled")
    hottest = [(function, n / total) for function, n in own.most_common(_HOTTEST)]
    if as_json:
        shares = [{"function": function, "share": round(share, 4)} for function, share in hottest]
        found = {"process": name, "pid": pid, "file": str(path), "samples": total, "hottest": shares}
        sys.stdout.write(json.dumps(found) + "\n")
        return 0
    sys.stdout.write(f"{path}: {total} samples of {name}; hottest, without what they called:\n")
    for function, share in hottest:
        sys.stdout.write(f"{100 * share:6.1f} %  {function}\n")
    return 0


def _check_out(path: Path) -> None:
    if path.is_dir() or not os.access(path.absolute().parent, os.W_OK):
        msg = f"--out {path}: must be a file in a folder that can be written to"
        raise RunError(msg)


def _sample(pid: int, name: str, seconds: float, path: Path, *, native: bool) -> str:
    """Run py-spy; returns what it said. Raises ProfileError."""
    program = Path(sys.executable).with_name("py-spy")
    command = str(program) if program.is_file() else shutil.which("py-spy")
    if command is None:
        msg = "py-spy is not installed here; it is the package py-spy of requirements.lock"
        raise ProfileError(msg)
    how = ["--native", "--rate", str(_NATIVE_RATE)] if native else ["--nonblocking", "--rate", str(_RATE)]
    length = str(max(1, round(seconds)))
    spy = subprocess.Popen(
        [command, "record", "--pid", str(pid), "--duration", length, "--output", str(path), *how],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    try:
        said = _words_of(spy, seconds)
    finally:
        if spy.poll() is None:
            spy.kill()
            spy.wait()
    if spy.returncode == 0 and path.is_file():
        return said
    raise ProfileError(_complaint(pid, name, said, native=native))


def _words_of(spy: subprocess.Popen[str], seconds: float) -> str:
    until = time.monotonic() + seconds + _PATIENCE_S
    while True:
        try:
            return spy.communicate(timeout=max(0.0, until - time.monotonic()))[0]
        except KeyboardInterrupt:  # it has got the signal too, and writes what it has
            until = min(until, time.monotonic() + _PATIENCE_S)
        except subprocess.TimeoutExpired:
            msg = f"py-spy did not end {_PATIENCE_S:.0f} s after its time"
            raise ProfileError(msg) from None


def _complaint(pid: int, name: str, said: str, *, native: bool) -> str:
    """Why py-spy failed, for people."""
    lower = said.lower()
    if any(word in lower for word in _DENIED):
        capable = int(_status_of(os.getpid()).get("CapEff", "0"), 16) >> _SYS_PTRACE & 1
        why = "which this process has" if capable else "which this process has not"
        scope = Path("/proc/sys/kernel/yama/ptrace_scope")
        if scope.is_file():
            why += f"; kernel.yama.ptrace_scope is {scope.read_text('utf-8').strip()}, 0 allows it for your processes"
        return (
            f"looking into {name} (process {pid}) is not permitted: it takes the capability SYS_PTRACE, {why}. On a"
            " host: sudo. In a container: --cap-add SYS_PTRACE, see docs/deployment.md"
        )
    if not Path(f"/proc/{pid}").exists() or any(word in lower for word in _GONE):
        return f"{name} (process {pid}) has ended"
    if "no stack counts" in lower:
        return f"{name} (process {pid}) was idle all the time: there is no sample; give it work, or more --seconds"
    first = next((line for line in said.splitlines() if line.lower().startswith("error")), said.strip())
    return f"py-spy cannot profile {name} (process {pid})" + (" with --native" if native else "") + f": {first}"


def self_samples(svg: str) -> tuple[int, Counter[str]]:
    """(all samples, samples of each function without those of what it called) of a flame graph by py-spy.

    A frame is a ``g`` with a title "function (file:line) (n samples, x%)" and a rectangle with attributes ``fg:x``
    and ``fg:w``, its first sample and its number of samples; a called function lies one row further from the root,
    which is the one frame that has all samples. Raises xml.etree.ElementTree.ParseError for something else.
    """
    rows: dict[float, list[tuple[int, int, str]]] = {}
    root = ET.fromstring(svg)  # noqa: S314 - py-spy has just written it
    for group in root.iter("{http://www.w3.org/2000/svg}g"):
        title = group.find("{http://www.w3.org/2000/svg}title")
        box = group.find("{http://www.w3.org/2000/svg}rect")
        if title is None or title.text is None or box is None:
            continue
        first, n = (int(_attribute(box, key)) for key in ("x", "w"))
        rows.setdefault(float(box.attrib["y"]), []).append((first, n, title.text.rpartition(" (")[0]))
    own: Counter[str] = Counter()
    ys = sorted(rows)
    if not ys:
        raise ET.ParseError("there is no frame in it")
    total = max(n for row in rows.values() for _, n, _ in row)
    if rows[ys[0]][0][2] != "all":  # the root is below
        ys.reverse()
    for y, below in zip(ys, [*ys[1:], None], strict=True):
        inner = rows[below] if below is not None else []
        for first, n, function in rows[y]:
            called = sum(width for start, width, _ in inner if first <= start < first + n)
            if function != "all":
                own[_without_line(function)] += n - called
    return total, +own  # no frames that only call


def _attribute(box: ET.Element, key: str) -> str:
    for name, value in box.attrib.items():
        if name.endswith(f"}}{key}"):
            return value
    msg = f"a frame without fg:{key}"
    raise ET.ParseError(msg)


def _without_line(function: str) -> str:
    """``function (file)`` of ``function (file:line)``."""
    head, colon, line = function.rpartition(":")
    return f"{head})" if colon and line.rstrip(")").isdigit() else function


def run_stages(file: str, out: Path, *, as_json: bool) -> int:
    """Become ``bench/kernels.py``, which times each kernel over a recorded file. Raises RunError, WorkspaceError."""
    from tickpath.cli.workspace import run_bench  # noqa: PLC0415 - only here

    _check_out(out)
    if file and not Path(file).is_file():
        msg = f"{file}: there is no such file; a recorded one is wanted (ITCH 5.0 or LOBSTER messages)"
        raise RunError(msg)
    run_bench("kernels", [*([file] if file else []), "--out", str(out), *(["--json"] if as_json else [])])
    return 0
