"""Where running systems are found: each has a folder of its own for sockets, pages and logs, and a note in it.

All folders of one user lie under `run_root`, a tmpfs where there is one, because pages are read and written all the
time. A folder goes when its system ends; one whose launcher was killed is swept by the next launcher.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import stat
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from tickpath.common.process import AlreadyRunningError, claim

NOTE: Final = "launcher.json"
_CLAIM: Final = "launcher"
_MIN_FREE_BYTES: Final = 512 << 20  # pages and a day's journal: docker's default /dev/shm has 64 MB
_YOUNG_S: Final = 10.0  # a folder this new may be about to be claimed
_TMPFS: Final = Path("/dev/shm")  # noqa: S108 - the folder in it belongs to the user alone


class RunError(Exception):
    """No such running system, or no place for one; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Run:
    """What a launcher notes about its system; the token stands in a file of its own that only the user can read."""

    pid: int
    command: str  # demo or up
    run_dir: str
    config: str
    host: str
    http_ports: dict[str, int]
    token_file: str
    with_sim: bool

    def token(self) -> str:
        """The bearer token of the endpoints."""
        return Path(self.token_file).read_text("utf-8").strip()


def run_root() -> Path:
    """Folder of all runs of this user. Raises RunError when it is not safe."""
    for base in (_TMPFS, Path(tempfile.gettempdir())):
        if not os.access(base, os.W_OK):
            continue
        usage = os.statvfs(base)
        if base == _TMPFS and usage.f_bavail * usage.f_frsize < _MIN_FREE_BYTES:
            continue
        root = base / f"tickpath-{os.getuid()}"
        root.mkdir(mode=0o700, exist_ok=True)
        found = root.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
            msg = f"{root} must be a folder of yours with mode 0700; remove it"
            raise RunError(msg)
        return root
    msg = f"neither {_TMPFS} nor {tempfile.gettempdir()} can be written to; TMPDIR names another place"
    raise RunError(msg)


def make_run_dir() -> tuple[Path, int]:
    """A fresh folder and the descriptor that claims it; folders of dead launchers are removed."""
    root = run_root()
    for old in root.iterdir():
        sweep(old)
    run_dir = Path(tempfile.mkdtemp(prefix="", dir=root))
    return run_dir, claim(run_dir, _CLAIM)


def claim_run_dir(run_dir: Path) -> int:
    """Claim a folder that the user chose and link to it from `run_root`. Raises RunError when a system runs there."""
    link = run_root() / f"at-{hashlib.sha256(str(run_dir.resolve()).encode()).hexdigest()[:12]}"
    try:
        claimed = claim(run_dir, _CLAIM)
        link.unlink(missing_ok=True)
        link.symlink_to(run_dir.resolve())
    except AlreadyRunningError:
        msg = f"a system runs on {run_dir} already; stop it (tickpath down --run-dir {run_dir}) or choose another"
        raise RunError(msg) from None
    except OSError as error:
        msg = f"cannot use {run_dir} as run_dir: {error.strerror}"
        raise RunError(msg) from None
    return claimed


def is_alive(run_dir: Path) -> bool:
    """Whether a launcher holds this folder."""
    try:
        descriptor = os.open(run_dir / f"{_CLAIM}.lock", os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def sweep(run_dir: Path) -> None:
    """Remove what a dead launcher left in `run_root`: its folder, or its link to the folder that the user chose."""
    with contextlib.suppress(OSError):
        if time.time() - run_dir.lstat().st_mtime < _YOUNG_S or is_alive(run_dir):
            return
        if run_dir.is_symlink():
            run_dir.unlink()
        else:
            shutil.rmtree(run_dir)


def write_note(run: Run, token: str) -> None:
    """Leave note and token, so that other commands find this system."""
    for path, text in ((Path(run.token_file), token), (Path(run.run_dir) / NOTE, json.dumps(asdict(run)))):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)


def read_note(run_dir: Path) -> Run | None:
    """The note of the launcher that holds this folder; None when there is none."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        run = Run(**json.loads((run_dir / NOTE).read_text("utf-8")))
        if is_alive(run_dir):
            return run
    return None


def find_run(run_dir: Path | None = None) -> Run:
    """The system on `run_dir`, else the one that was started last. Raises RunError."""
    if run_dir is not None:
        run = read_note(run_dir)
        if run is None:
            msg = f"no launcher runs a system on {run_dir}"
            raise RunError(msg)
        return run
    root = run_root()
    found = [run for path in sorted(root.iterdir(), key=_age) if (run := read_note(path)) is not None]
    if not found:
        msg = "no system of yours runs here; `tickpath up` starts one (--run-dir names one in another place)"
        raise RunError(msg)
    return found[-1]


def _age(path: Path) -> float:
    try:
        return (path / NOTE).stat().st_mtime
    except OSError:
        return 0.0
