"""The shell launcher ``./tickpath``, with a small workspace and interpreters that only say what they were asked."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

LAUNCHER = Path(__file__).parent.parent / "tickpath"

#: Stands for an interpreter: makes the environment as a copy of itself, keeps a record of what pip was asked, and as
#: the command line prints its arguments and folder.
PYTHON = """#!/bin/sh
case "$1 $2 $3" in
"- "*) echo usable ;;
"-c import sys"*) echo 3.11 here ;;
"-c import fcntl"*) exec {python} "$@" ;;
-V*) echo Python 3.11.0 ;;
"-m venv"*) mkdir -p "$4/bin"; cp "$0" "$4/bin/python"; echo venv >>"{record}" ;;
"-m pip"*) echo "$@" >>"{record}"; exit "$(cat "{record}.status" 2>/dev/null || echo 0)" ;;
"-m tickpath.cli"*) shift 2; env >"{record}.environment"; pwd; for word; do echo "<$word>"; done; exit 7 ;;
*) echo "unexpected: $*" >&2; exit 99 ;;
esac
"""


class Clone:
    """A folder with the launcher, a lock and two packages."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "clone"
        self.bin = folder / "bin"
        self.record = folder / "record"
        for name in ("libs/one", "sim"):
            (self.root / name).mkdir(parents=True)
            (self.root / name / "pyproject.toml").write_text(f"[project]\nname = '{Path(name).name}'\n")
        (self.root / "requirements.lock").write_text("one==1\n")
        shutil.copy(LAUNCHER, self.root / "tickpath")
        self.bin.mkdir()
        for tool in ("sh", "readlink", "dirname", "cat", "cksum", "head", "mv", "rm", "mkdir", "cp", "env"):
            found = shutil.which(tool)
            assert found is not None
            (self.bin / tool).symlink_to(found)

    def add_python(self, name: str, text: str = PYTHON) -> Path:
        """Put an interpreter of this name on the PATH."""
        path = self.bin / name
        path.write_text(text.format(python=sys.executable, record=self.record))
        path.chmod(0o755)
        return path

    def run(self, *arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run the launcher with nothing but our own folder on the PATH."""
        return subprocess.run(
            [self.root / "tickpath", *arguments], cwd=cwd or self.root, env={"PATH": str(self.bin), **environment},
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    def asked(self) -> list[str]:
        """What the interpreters were asked to install since the last time."""
        lines = self.record.read_text().splitlines() if self.record.exists() else []
        self.record.unlink(missing_ok=True)
        return lines


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    """A clone with a Python on the PATH."""
    made = Clone(tmp_path)
    made.add_python("python3")
    return made


def test_first_run_installs_the_lock_by_hash_and_the_packages_editable(clone: Clone) -> None:
    """The environment is made, then the lock with hashes, then the workspace without its dependencies."""
    done = clone.run("demo")
    venv, lock, packages = clone.asked()
    assert venv == "venv"
    assert lock.endswith(f"install --no-compile --require-hashes -r {clone.root}/requirements.lock")
    assert packages.endswith(f"--no-deps --no-build-isolation -e {clone.root}/sim -e {clone.root}/libs/one")
    assert done.returncode == 7


def test_command_gets_its_arguments_folder_and_the_whole_of_stdout(clone: Clone, tmp_path: Path) -> None:
    """Arguments arrive as they are, the folder stays, and what the launcher says goes to stderr."""
    done = clone.run("a b", "", "*", "$HOME", cwd=tmp_path)
    assert done.stdout == f"{tmp_path}\n<a b>\n<>\n<*>\n<$HOME>\n"
    assert "tickpath: " in done.stderr


@pytest.mark.parametrize(
    ("given", "folder"),
    [
        ({"HOME": "/home/trader"}, "/home/trader/.cache/tickpath/bytecode"),
        ({"HOME": "/home/trader", "TICKPATH_CACHE": "/fast/cache"}, "/fast/cache/bytecode"),
        ({"PYTHONPYCACHEPREFIX": "/elsewhere", "PYTHONDONTWRITEBYTECODE": "1"}, "/elsewhere"),
    ],
)
def test_bytecode_is_kept_beside_the_compiled_kernels(clone: Clone, given: dict[str, str], folder: str) -> None:
    """Whatever was set: without it each of a dozen processes would compile all sources that it imports."""
    clone.run(**given)
    environment = Path(f"{clone.record}.environment").read_text().splitlines()
    assert f"PYTHONPYCACHEPREFIX={folder}" in environment
    assert not [line for line in environment if line.startswith("PYTHONDONTWRITEBYTECODE")]


def test_second_run_installs_nothing_and_says_nothing(clone: Clone) -> None:
    """As long as lock and packages are the same, the command starts at once."""
    clone.run()
    clone.asked()
    done = clone.run()
    assert (clone.asked(), done.stderr, done.returncode) == ([], "", 7)


@pytest.mark.parametrize("changed", ["requirements.lock", "sim/pyproject.toml"])
def test_change_is_installed_in_place(clone: Clone, changed: str) -> None:
    """A changed lock or package is installed into the same environment, once."""
    clone.run()
    clone.asked()
    with (clone.root / changed).open("a") as file:
        file.write("# changed\n")
    clone.run()
    assert [line.startswith("-m pip") for line in clone.asked()] == [True, True]
    clone.run()
    assert clone.asked() == []


def test_new_package_is_installed(clone: Clone) -> None:
    """A package that joins the workspace is noticed."""
    clone.run()
    clone.asked()
    (clone.root / "services" / "new").mkdir(parents=True)
    (clone.root / "services" / "new" / "pyproject.toml").write_text("")
    clone.run()
    assert f"-e {clone.root}/services/new" in clone.asked()[-1]


def test_interrupted_installation_begins_again(clone: Clone) -> None:
    """An installation that failed half-way is not taken for a whole one: the environment is made afresh."""
    failed = clone.record.with_suffix(".status")
    failed.write_text("1")
    done = clone.run()
    assert done.returncode == 1
    assert "requirements.lock lists failed" in done.stderr
    assert "TICKPATH_WHEELHOUSE" in done.stderr
    assert done.stdout == ""
    failed.unlink()
    clone.asked()
    assert clone.run().returncode == 7
    assert clone.asked()[0] == "venv"


def test_moved_clone_gets_a_new_environment(clone: Clone) -> None:
    """The scripts of an environment name its folder, so it cannot be moved."""
    clone.run()
    clone.asked()
    clone.root = clone.root.rename(clone.root.with_name("moved"))
    clone.run()
    assert clone.asked()[0] == "venv"


def test_wheelhouse_means_no_network(clone: Clone, tmp_path: Path) -> None:
    """With TICKPATH_WHEELHOUSE pip gets that folder and no index."""
    clone.run(TICKPATH_WHEELHOUSE=str(tmp_path))
    assert f"--no-index --find-links {tmp_path} --require-hashes" in clone.asked()[1]


def test_wheelhouse_that_is_no_folder_is_refused(clone: Clone, tmp_path: Path) -> None:
    """The message names the variable, its value and what is allowed."""
    done = clone.run(TICKPATH_WHEELHOUSE=str(tmp_path / "none"))
    assert done.returncode == 1
    assert f"TICKPATH_WHEELHOUSE={tmp_path}/none is no folder" in done.stderr
    assert clone.asked() == []


def test_broken_shims_and_old_interpreters_are_passed_over(clone: Clone) -> None:
    """A python3 that does not run, and one that is too old, lose to a python3.12 that fits."""
    clone.add_python("python3", "#!/bin/sh\nexit 127\n")
    clone.add_python("python3.13", '#!/bin/sh\necho "is Python 3.9.1"\n')
    good = clone.add_python("python3.12")
    done = clone.run()
    assert done.returncode == 7
    assert str(good) in done.stderr


def test_no_python_says_what_was_tried_and_what_is_needed(clone: Clone) -> None:
    """Each candidate with its fault, and what to do."""
    clone.add_python("python3", "#!/bin/sh\nexit 127\n")
    clone.add_python("python3.11", "#!/bin/sh\necho has no module venv\n")
    done = clone.run()
    assert done.returncode == 1
    assert "CPython 3.11 to 3.14" in done.stderr
    assert "python3: does not run" in done.stderr
    assert "python3.14: not found" in done.stderr
    assert "python3.11: has no module venv" in done.stderr
    assert "TICKPATH_PYTHON" in done.stderr
    assert not (clone.root / ".venv").exists()


def test_chosen_interpreter_is_the_only_candidate(clone: Clone, tmp_path: Path) -> None:
    """TICKPATH_PYTHON is used or refused, never silently replaced."""
    done = clone.run(TICKPATH_PYTHON=str(tmp_path / "nowhere"))
    assert done.returncode == 1
    assert f"{tmp_path}/nowhere: not found" in done.stderr


def test_real_interpreter_is_accepted_and_an_environment_is_started(tmp_path: Path) -> None:
    """The check runs in a real Python; an empty wheelhouse then ends the installation with a clear message."""
    clone = Clone(tmp_path)
    (tmp_path / "wheels").mkdir()
    done = clone.run(
        TICKPATH_PYTHON=sys.executable, TICKPATH_WHEELHOUSE=str(tmp_path / "wheels"), PIP_CONFIG_FILE=os.devnull
    )
    assert done.returncode == 1
    assert (clone.root / ".venv" / "bin" / "python").exists()
    assert not (clone.root / ".venv" / "installed").exists()
    assert "installing what requirements.lock lists failed" in done.stderr


def test_two_at_once_install_once(clone: Clone) -> None:
    """The second waits for the first and then finds everything there."""
    slow = PYTHON.replace('"-m venv"*) ', '"-m venv"*) {python} -c "import time; time.sleep(1)"; ')
    clone.add_python("python3", slow)
    started = [
        subprocess.Popen(
            [clone.root / "tickpath"], cwd=clone.root, env={"PATH": str(clone.bin)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    said = [process.communicate(timeout=60)[1] for process in started]
    assert [process.returncode for process in started] == [7, 7]
    assert clone.asked().count("venv") == 1
    assert sum("waiting for another" in text for text in said) == 1
