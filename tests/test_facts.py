"""The facts of a run: every number as it was, whole lines only, and what a resumed run does again."""

import csv
from pathlib import Path
from typing import Any

import pytest

from scaffolding.core.folder.facts import Facts


def row(step: int, split: str = "train", **values: float) -> dict[str, Any]:
    return {"step": step, "epoch": 0, "samples": 8 * step, "split": split, **values, "time": 1700000000.125 + step}


def write_rows(folder: Path, *rows: dict[str, Any]) -> Facts:
    facts = Facts(folder)
    for one in rows:
        facts.add_row(one)
    return facts


def test_a_new_metric_adds_a_column(tmp_path: Path) -> None:
    rows = [row(1, loss=1 / 3), row(2, loss=0.1 + 0.2, grad_norm=1e-30), row(2, "val", loss=float("inf"), f1=0.5)]
    facts = write_rows(tmp_path, *rows)
    assert facts.rows() == rows  # every number as it was, to the last bit
    with open(facts.scalars_file, newline="") as file:
        table = list(csv.reader(file))
    assert table[0][:4] == ["step", "epoch", "samples", "split"]
    assert set(table[0][4:]) == {"loss", "time", "grad_norm", "f1"}
    assert {len(line) for line in table} == {len(table[0])}


def test_cells_are_numbers_of_their_own_kind_or_text(tmp_path: Path) -> None:
    """Whatever else is in their column or their row: rows that are too short or too long, or empty."""
    facts = Facts(tmp_path)
    lines = [
        "step,split,a,b,",
        "1,train,1,-5,x",
        "2,val,1.0,-1e-05",
        "",
        "3,3,nan",
        "4,,7,7,x,y",
        "x,val,1,1",
        "5,val,,q",
    ]
    facts.scalars_file.write_text("\n".join([*lines, ""]))
    assert repr(facts.rows()) == repr(
        [
            {"step": 1, "split": "train", "a": 1, "b": -5},
            {"step": 2, "split": "val", "a": 1.0, "b": -1e-05},
            {"step": 3, "split": 3, "a": float("nan")},
            {"step": 5, "split": "val", "b": "q"},
        ]
    )


def test_cut_after_drops_what_comes_again(tmp_path: Path) -> None:
    kept = [row(1, loss=1 / 3), row(2, loss=float("nan")), row(2, "val", loss=1e-7)]
    facts = write_rows(tmp_path, *kept)
    before = facts.scalars_file.read_bytes()
    assert facts.cut_after(2, []) == 0 and facts.scalars_file.read_bytes() == before
    write_rows(tmp_path, row(3, loss=2.0), row(3, "val", loss=2.0), row(2, "test", loss=2.0))
    assert facts.cut_after(2, []) == 3
    assert facts.scalars_file.read_bytes() == before
    assert facts.cut_after(2, ["val"]) == 1 and len(facts.rows()) == 2  # a look that is done again
    assert facts.cut_after(0, []) == 2 and facts.rows() == []
    assert Facts(tmp_path / "nowhere").cut_after(5, []) == 0


@pytest.mark.parametrize("step", [2, 3])
def test_a_torn_last_line_is_dropped(tmp_path: Path, step: int) -> None:
    """Also where it belongs to a step that is kept: a row that is whole must not be written behind it."""
    facts = write_rows(tmp_path, *(row(number, loss=number / 3, items_per_second=100.5) for number in (1, 2, 3)))
    whole = facts.scalars_file.read_bytes()
    start = len(whole) - len(whole.splitlines(keepends=True)[-1])
    for end in range(start + 1, len(whole)):
        facts.scalars_file.write_bytes(whole[:end])
        facts.cut_after(step, [])
        facts.add_row(row(4, loss=1.0))
        rows = facts.rows()
        assert [one["step"] for one in rows] == [1, 2, 4] and rows[-1] == row(4, loss=1.0), whole[start:end]
