"""The list of reasons: closed, documented, and reached."""

from __future__ import annotations

import re
from pathlib import Path

from tickpath.risk.reasons import BUILT, MEANINGS, N_REASONS, Reason, reasons_page

ROOT = Path(__file__).parents[3]


def test_every_code_has_a_meaning_and_a_place_in_the_counters() -> None:
    assert set(MEANINGS) == set(Reason)
    assert max(Reason) < N_REASONS


def test_the_page_of_reasons_is_current() -> None:
    """Write it again with ``python -m tickpath.risk.reasons > docs/risk-reasons.md`` when this fails."""
    assert (ROOT / "docs" / "risk-reasons.md").read_text("utf-8") == reasons_page()


def test_what_is_said_to_be_built_is_what_the_controls_can_return() -> None:
    """The codes in the source of the controls are exactly those that the page calls built."""
    source = (ROOT / "services/risk/tickpath/risk/kernels/controls.py").read_text("utf-8")
    assert {Reason[name] for name in re.findall(r"Reason\.([A-Z_]+)\.value", source)} == BUILT - {Reason.PASS}


def test_the_tests_of_this_folder_reach_every_built_code() -> None:
    """Each is asserted as the outcome of a decision in the vectors or the properties."""
    tests = "".join(path.read_text("utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    assert set(re.findall(r"Reason\.([A-Z_]+)", tests)) >= {reason.name for reason in BUILT}
