"""Rules of the house that a machine can check."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SERVICES = ("feed", "signals", "risk", "exec")
IMPORT = re.compile(r"^\s*(?:from|import)\s+tickpath\.(\w+)", re.MULTILINE)


@pytest.mark.parametrize("service", [*SERVICES, "sim"])
def test_a_service_imports_common_and_nothing_of_another_service(service: str) -> None:
    folder = ROOT / ("sim" if service == "sim" else f"services/{service}") / "tickpath" / service
    sources = sorted(folder.rglob("*.py"))
    assert sources
    for source in sources:
        imported = set(IMPORT.findall(source.read_text("utf-8")))
        assert imported <= {"common", service}, source


@pytest.mark.parametrize(
    "module", [*(f"tickpath.{name}.service" for name in (*SERVICES, "sim")), "tickpath.cli.main"]
)
def test_a_side_process_and_the_command_line_do_not_import_numba(module: str) -> None:
    code = f"import sys, {module}; print(sorted(m for m in ('numba', 'llvmlite') if m in sys.modules))"
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert seen.stdout.strip() == "[]"


def test_no_namespace_package_has_an_init() -> None:
    assert not [p for p in ROOT.glob("*/**/tickpath/__init__.py") if ".venv" not in p.parts]


def test_nothing_unsafe_is_used() -> None:
    forbidden = re.compile(r"\bimport pickle\b|\bpickle\.loads?\(|yaml\.load\(|shell=" + "True")
    for folder in ("libs", "services", "sim", "bench", "host-tuning"):
        for source in (ROOT / folder).rglob("*.py"):
            assert not forbidden.search(source.read_text("utf-8")), source
