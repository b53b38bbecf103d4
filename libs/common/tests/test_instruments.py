"""The instrument table: exact decimals, dense ids, faults with their row."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from tickpath.common.instruments import (
    COLUMNS,
    InstrumentError,
    load_instruments,
    make_table,
    save_instruments,
    shard_of,
)

HEADER = ",".join(COLUMNS[:-1]) + "\n"


def test_a_table_survives_being_written_and_read(tmp_path: Path) -> None:
    table = make_table([("AAPL", "0.0001", 100, 1, 1, "USD"), ("ESH4", "0.25", 1, 1, 50, "USD")])
    save_instruments(table, tmp_path / "i.csv")
    again = load_instruments(tmp_path / "i.csv")
    assert again.symbols == ("AAPL", "ESH4")
    assert (again.array == table.array).all()
    assert again.id_of("ESH4") == 1
    assert again.price(1, 19001) == Decimal("4750.25")
    assert again.array["price_units_per_tick"].tolist() == [1, 2500]


def test_a_lot_may_be_a_fraction_and_the_exchange_may_count_in_ticks(tmp_path: Path) -> None:
    """A lot of 0.00001 BTC gains 0.0000001 by a tick of 0.01, and is 1 to the exchange."""
    rows = [("BTCUSDT", "0.01", 1, "0.00001", "0.00001", "USDT", "0.01"), ("EURUSD", "0.00001", 1, 1, 1, "USD")]
    save_instruments(make_table(rows), tmp_path / "i.csv")
    again = load_instruments(tmp_path / "i.csv")
    assert again.array["tick_value_e8"].tolist() == [10, 1000]
    assert again.array["lot_size"].tolist() == [1, 1]
    assert again.array["price_units_per_tick"].tolist() == [1, 0]
    assert again.texts[0] == ("0.00001", "0.00001", "0.01")
    with pytest.raises(InstrumentError, match=r"multiple of 0\.00000001"):
        make_table([("A", "0.00001", 1, 1, "0.00001", "USD")])


def test_every_fault_is_named_with_its_row(tmp_path: Path) -> None:
    path = tmp_path / "i.csv"
    path.write_text(HEADER + "AAPL,0.0001,100,1,1,USD\nAAPL,0,1,1,1,USD\nTOOLONGNAME,0.01,0,1,1,USD\n")
    with pytest.raises(InstrumentError) as error:
        load_instruments(path)
    said = str(error.value)
    assert "row 2 ('AAPL'): symbol stands in row 1 already" in said
    assert "row 2 ('AAPL'): tick_size '0'" in said
    assert "row 3 ('TOOLONGNAME'): symbol must be 1 to 8" in said
    assert "row 3 ('TOOLONGNAME'): price_step_ticks 0" in said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "first line must be"),
        ("a,b\n", "first line must be"),
        (HEADER, "no instrument"),
        (HEADER + "AAPL,0.01,x,1,1,USD\n", "line 2"),
        (HEADER + "AAPL,0.01\n", "line 2"),
    ],
)
def test_a_file_of_another_shape_is_refused(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "i.csv"
    path.write_text(content)
    with pytest.raises(InstrumentError, match=said):
        load_instruments(path)
    with pytest.raises(InstrumentError, match="cannot read"):
        load_instruments(tmp_path / "none.csv")


def test_a_shard_never_changes() -> None:
    assert [shard_of(s) for s in ("AAPL", "MSFT", "AMZN")] == [92, 123, 158]
