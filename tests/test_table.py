"""core/table: expressions, statistics, and what tables look like, on made-up runs (test_runs.py has real ones)."""

import csv
import io
import itertools
import json
import math
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scaffolding.core.errors import UserError
from scaffolding.core.find import find_run
from scaffolding.core.table.best import best_of
from scaffolding.core.table.columns import metrics, table_of_differences, table_of_runs, varying
from scaffolding.core.table.query import select, values_of
from scaffolding.core.table.runs import Run, read_runs, short_names
from scaffolding.core.table.seeds import group_by_settings, remarks, table_of_groups
from scaffolding.core.table.show import FORMATS, Table, width_of
from scaffolding.core.table.statistics import describe_test, paired_p, summarise, t_quantile


def make(name: str, results: dict[str, Any] | None = None, status: str = "finished", **settings: Any) -> Run:
    """A run as `read_runs` gives it; `a__b` is the setting a.b."""
    results = {"val/loss": 0.5} if results is None else results
    best = results.get("val/loss")
    return {
        "name": name, "short": name, "path": f"/nowhere/{name}", "status": status, "reason": None, "note": "",
        "description": "", "tags": [], "started": 1.0, "ended": 61.0, "age": 7200.0, "duration": 60.0, "step": 8,
        "num_steps": 8, "best": best, "best_step": 8, "monitor": "val/loss", "monitor_mode": "min", "results": results,
        "seconds": {"data": 2.0}, "settings": {key.replace("__", "."): value for key, value in settings.items()},
    }  # fmt: skip


# --- expressions

POOL: dict[str, list[Any]] = {  # what the runs have in each column
    "optimizer.lr": [0.1, 0.01, 1e-3, None, "auto"],
    "model.size": [1, 2, 3, 64, None],
    "run.budget": ["8", "30epochs", "100", "x"],
    "run.compile": [True, False, "max-autotune", None],
    "model.sizes": [[64, 32], [64], [], None, ["a"]],
    "data.name": ["digits", "Birds", "o'neill", "", None],
    "val/loss": [0.25, 1.5, None, 3.0, -1.0],
}
WORDS = ["digits", "Birds", "auto", "x", "30epochs", "zebra"]
Truth = bool | None
Check = Callable[[Run], Truth]


def plain(run: Run, column: str) -> Any:
    """A value as it is compared: texts that are numbers as numbers, lists as JSON."""
    found = run["results"].get(column, run["settings"].get(column))
    if isinstance(found, list):
        return json.dumps(found)
    return as_number(found)


def as_number(found: Any) -> Any:
    if isinstance(found, str) and re.fullmatch(r"-?\d+(\.\d+)?", found):
        return float(found)
    return found


def compared(operator: str, left: Any, right: Any) -> Truth:
    if left is None or right is None:
        return None
    one, other = ((isinstance(part, str), part) for part in (left, right))  # a number is smaller than any text
    below, equal = one < other, one == other
    outcomes = {"=": equal, "==": equal, "!=": not equal, "<>": not equal, "<": below, "<=": below or equal}
    return outcomes.get(operator, not below if operator == ">=" else not (below or equal))


def written(value: Any, draws: random.Random) -> str:
    """A value as it may be written in an expression."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return str(value)
    if isinstance(value, str) and value in WORDS and draws.random() < 0.5:
        return value
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return repr(value)


def drawn_value(draws: random.Random) -> Any:
    everything = [value for values in POOL.values() for value in values if value is not None] + WORDS
    return draws.choice(everything)


def literal(value: Any) -> Any:
    return as_number(json.dumps(value) if isinstance(value, list) else value)


def drawn(draws: random.Random, depth: int) -> tuple[str, Check]:
    """An expression, and the same as a function."""
    if depth and draws.random() < 0.6:
        return joined(draws, depth)
    column = draws.choice([*POOL])
    kind = draws.choice(["compare", "compare", "compare", "in", "null", "between", "columns", "sum"])
    if kind == "compare":
        operator, value = draws.choice(["=", "==", "!=", "<>", "<", "<=", ">", ">="]), drawn_value(draws)
        text = written(value, draws)
        if operator not in ("=", "==", "!=", "<>") and isinstance(value, str):
            text = written(value, random.Random(1)) if value not in WORDS else f"'{value}'"
        gap = draws.choice(["", " "])
        return f"{column}{gap}{operator}{gap}{text}", lambda run: compared(operator, plain(run, column), literal(value))
    if kind == "in":
        values = [drawn_value(draws) for _ in range(3)]
        text = f"{column} in ({', '.join(written(value, draws) for value in values)})"
        return text, lambda run: any_of([compared("=", plain(run, column), literal(value)) for value in values])
    if kind == "null":
        text, is_null = draws.choice([("is null", True), ("= null", True), ("is not null", False), ("!= null", False)])
        return f"{column} {text}", lambda run: (plain(run, column) is None) == is_null
    if kind == "between":
        low, high = draws.choice([0, 0.01, 1]), draws.choice([0.5, 2, 64])
        return f"{column} between {low} and {high}", lambda run: all_of(
            [compared(">=", plain(run, column), low), compared("<=", plain(run, column), high)]
        )
    if kind == "columns":
        return "model.size < val/loss", lambda run: compared("<", plain(run, "model.size"), plain(run, "val/loss"))
    return "val/loss/2 + model.size - 1 > 1", half_and_size


def half_and_size(run: Run) -> Truth:
    loss, size = plain(run, "val/loss"), plain(run, "model.size")
    return None if loss is None or size is None else loss / 2 + size - 1 > 1


def joined(draws: random.Random, depth: int) -> tuple[str, Check]:
    (left, is_left), (right, is_right) = drawn(draws, depth - 1), drawn(draws, depth - 1)
    kind = draws.choice(["and", "or", "not", "AND"])
    if kind == "not":
        return f"not ({left})", lambda run: negated(is_left(run))
    combine = any_of if kind == "or" else all_of
    return f"({left}) {kind} ({right})", lambda run: combine([is_left(run), is_right(run)])


def negated(truth: Truth) -> Truth:
    return None if truth is None else not truth


def any_of(truths: list[Truth]) -> Truth:
    return True if True in truths else (None if None in truths else False)


def all_of(truths: list[Truth]) -> Truth:
    return negated(any_of([negated(truth) for truth in truths]))


def pool_runs(num: int, draws: random.Random) -> list[Run]:
    runs = []
    for index in range(num):
        values = {column: draws.choice(values) for column, values in POOL.items() if draws.random() < 0.9}
        loss = {"val/loss": values.pop("val/loss")} if "val/loss" in values else {}
        runs.append(make(f"run{index}", loss))
        runs[-1]["settings"] = values
    return runs


def test_500_expressions_choose_what_a_plain_filter_chooses() -> None:
    draws = random.Random(0)
    runs = pool_runs(200, draws)
    counts = []
    for _ in range(500):
        text, check = drawn(draws, 2)
        expected = [run["name"] for run in runs if check(run)]
        assert [run["name"] for run in select(runs, text)] == expected, text
        counts.append(len(expected))
    assert sum(0 < count < len(runs) for count in counts) > 300  # most of them decide something


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("optimzer.lr < 1", "no such column 'optimzer.lr'; nearest: optimizer.lr"),
        ("optimizer.lr < learning_rate", "no such column 'learning_rate'"),
        ("data.name = a.b", "no such column 'a.b'"),
        ("optimizer.lr <", "syntax error"),
        ("optimizer.lr 1", "syntax error"),
        ("0 < optimizer.lr < 1", "two comparisons in a row"),
        ("1; drop table runs", "';' is not allowed"),
        ("name in (select name from runs)", "syntax error"),
        ("(select 1)", "no such column 'select'"),
        ("exists (select 1)", "no such column 'exists'"),
        ("1) union select 1 from (runs", "a parenthesis is closed"),
        ("(1", "a parenthesis is not closed"),
        ("load_extension('x')", "no such column 'load_extension'"),
        ("max(model.size) > 1", "aggregate"),
        ("name = 'open", '"\'" is not allowed'),
        ("data.name = 'a' || 'b'", "'|' is not allowed"),
        ("model.sizes = [1, {]", "is not a list"),
        ("i = 1", "no such column 'i'"),
        ('"nosuch" = 1', "no such column 'nosuch'"),
        ("name = x\0y", "is not allowed"),
        ("\x1b[2Jx", "is not allowed"),
        ("(" * 3000 + "1" + ")" * 3000, "overflow"),
    ],
)
def test_a_wrong_expression_is_told_in_a_line(expression: str, problem: str) -> None:
    with pytest.raises(UserError, match=re.escape(problem)) as caught:
        select(pool_runs(30, random.Random(1)), expression)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("--where: ") and len(lines) == 2 and not re.search(r"\bc\d\b", lines[0])
    assert not set(str(caught.value)) & {"\x1b", "\0"}


def test_a_comment_or_a_quote_hides_nothing() -> None:
    runs = [make("one", data__name="it's"), make("two", data__name="--")]
    assert [run["name"] for run in select(runs, "data.name = 'it''s'")] == ["one"]
    assert [run["name"] for run in select(runs, "data.name = '--'")] == ["two"]
    assert [run["name"] for run in select(runs, "step --1 = 1 or data.name = '--'")] == ["two"]


def test_columns_that_look_like_an_operator() -> None:
    """A stranger's run may have any key; it takes no word away."""
    runs = [
        make("one", {"val/top-1": 0.5, "val/top": 3.0}, model__size=2),
        make("two", {}, **{"and": 1, "c0": 2, "or": 0}),
    ]
    assert [run["name"] for run in select(runs, "val/top-1 = 0.5 and model.size = 2")] == ["one"]
    assert [run["name"] for run in select(runs, "val/top - 1 = 2 and model.size-1 = 1")] == ["one"]
    assert [run["name"] for run in select(runs, "c0 = 2 or model.size = 3")] == ["two"]


def test_groups_tags_and_own_columns() -> None:
    runs = [make(f"run{index}", data__dataset___target_="d.Digits", model__net___target_=f"m.Net{index}")
            for index in range(3)]  # fmt: skip
    for run, tags in zip(runs, (["pilot", "b"], ["pilot2"], []), strict=True):
        run["tags"] = run["settings"]["run.tags"] = tags
    assert len(select(runs, "data=digits")) == 3 and select(runs, "model=net1") == [runs[1]]
    assert select(runs, "has(tags, pilot)") == [runs[0]] == select(runs, "run.tags = [pilot, b]")
    assert select(runs, "duration = 60 and age > 60 and seconds/data = 2 and step/num_steps = 1") == runs
    assert select(runs, "name like 'RUN%' and name != run1") == [runs[0], runs[2]]
    assert values_of(runs, "data = digts") == ["data is one of digits"]
    many = make("two", data__a___target_="x.A", data__b___target_="x.B")
    assert select([many], "data = a or data = b") == []  # of two classes none is the group's


def test_order() -> None:
    values = {"a": 2.0, "b": None, "c": 1.0, "d": 3.0, "e": 1.0}
    runs = [make(name, {} if value is None else {"val/loss": value}) for name, value in values.items()]

    def names(sort: str, **more: str) -> str:
        return "".join(run["name"] for run in select(runs, sort=sort, **more))

    assert names("val/loss") == "ceadb" and names("-val/loss") == "daceb"  # what has no value comes last
    assert names("best") == "ceadb" and names("-best") == "daceb"
    assert names("abs(val/loss - 2)", where="name != d") == "aceb"
    for run in runs:
        run["monitor_mode"] = "max"
    assert names("best") == "daceb"
    with pytest.raises(UserError, match="--sort: no such column 'val/los'; nearest: val/loss"):
        names("val/los")
    assert select([], "nosuch = 1") == []


# --- statistics: values by scipy 1.16, stats.t and stats.permutation_test

ELEVEN = [3.2515, 2.7358, 4.2808, 3.2098, 1.9287, 3.7232, 5.608, 4.8942, 1.5925, 0.4692, 1.7535]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.91, 0.87], (0.89, 0.028284271247461926, 0.25412409472349407)),
        ([0.0813, 0.0825, 0.1042], (0.08933333333333333, 0.012888884099615968, 0.03201776305423522)),
        ([1.0, 2.5, -3.0, 4.25, 0.001], (0.9502, 2.7293818347750465, 3.38897516159151)),
        (ELEVEN, (3.0406545454545455, 1.5427075084821724, 1.0364050063473516)),
    ],
)
def test_mean_spread_and_interval(values: list[float], expected: tuple[float, ...]) -> None:
    assert summarise(values)[1:] == pytest.approx(expected, rel=1e-9)


def test_quantiles() -> None:
    expected = {1: 12.706204736174694, 2: 4.302652729749462, 3: 3.1824463052837078, 7: 2.364624251592784,
                30: 2.0422724563012378, 200: 1.9718962236339088}  # fmt: skip
    assert {df: t_quantile(0.975, df) for df in expected} == pytest.approx(expected, rel=1e-9)
    assert t_quantile(0.975, 100_000) == pytest.approx(1.96, abs=1e-3)


def test_one_seed_has_no_spread() -> None:
    assert summarise([0.5]) == (1, 0.5, None, None) and str(summarise([0.5])) == "0.5  one seed"
    assert summarise([0.5, 0.5])[2:] == (0.0, 0.0)


def test_paired_test() -> None:
    one = [0.31, 0.28, 0.35, 0.30, 0.29, 0.33, 0.36, 0.27]
    other = [0.29, 0.27, 0.33, 0.31, 0.27, 0.30, 0.35, 0.28]
    assert paired_p([a - b for a, b in zip(one, other, strict=True)]) == 0.109375  # scipy: exact, with its ties
    draws = random.Random(4)
    for num in range(1, 9):
        values = [draws.gauss(0.5, 1) for _ in range(num)]
        sums = [sum(sign * value for sign, value in zip(signs, values, strict=True)) for signs in
                itertools.product((1, -1), repeat=num)]  # fmt: skip
        expected = sum(abs(total) >= abs(sum(values)) - 1e-12 for total in sums) / 2**num
        assert paired_p(values) == expected == paired_p([-value for value in values])
    assert paired_p([0.0] * 4) == 1.0 and paired_p([1.0] * 16) == 2 / 2**16


def test_paired_test_of_many() -> None:
    values = [1.475, -1.283, 0.501, -0.091, -0.022, 0.121, -0.962, 0.111, -0.269, 2.244, 0.385, 0.038, 0.081, -0.151,
              -0.383, 0.016, 0.539, 0.107, 0.825, 0.13]  # fmt: skip
    assert paired_p(values) == pytest.approx(0.3395, abs=0.01)  # scipy, of 400,000 draws
    assert paired_p(values) == paired_p(values)  # the seed is fixed
    assert 0 < paired_p([1.0] * 40) < 1e-4


def test_how_few_seeds_are_too_few() -> None:
    assert describe_test([0.1] * 5) == "p 0.062, 5 pairs (not enough seeds: 0.062 is the least it can be)"
    assert describe_test([0.1] * 6) == "p 0.031, 6 pairs"
    assert describe_test([0.1]) == "no test: 1 seed in common" and describe_test([]) == "no test: 0 seeds in common"


def seeds(**lr: list[float | None]) -> list[Run]:
    """Runs of several seeds for each of some names."""
    return [make(f"{name}{seed}", {"val/loss": loss} if loss is not None else {"val/loss": None}, run__seed=seed,
                 optimizer__name=name, run__description=f"{seed}", paths__output=f"/{seed}", tracker__x=f"{seed}")
            for name, losses in lr.items() for seed, loss in enumerate(losses)]  # fmt: skip


def test_groups_over_seeds() -> None:
    groups = group_by_settings(seeds(worse=[2.0, 2.1, 2.3], better=[1.0, 1.2, 1.1], diverged=[1.05, None, None]))
    rows = {row[0]: row for row in table_of_groups(groups).rows}
    assert [*rows] == ["better", "worse", "diverged"]
    assert rows["better"] == ["better", 3, "1.1 ± 0.1  [0.8516, 1.348]", ""]
    assert rows["worse"][3] == "p 0.25, 3 pairs (not enough seeds: 0.25 is the least it can be)"
    assert rows["diverged"] == ["diverged", 3, "1.05  one seed  (1 of 3 runs)", "no test: 1 seed in common"]
    none = table_of_groups(group_by_settings(seeds(only=[None, None])))
    assert none.rows == [[2, "no value"]]


def test_a_run_that_is_repeated_counts_once() -> None:
    runs = [*seeds(one=[1.0, 2.0]), *seeds(one=[1.0])]
    (group,) = groups = group_by_settings(runs)
    assert len(group.runs) == 2 and remarks(groups)[0].startswith("1 older runs repeat a run.seed")
    runs[0]["status"] = "failed"
    assert group_by_settings(runs)[0].num_repeats == 0


def test_what_else_differs_is_said() -> None:
    runs = [make(f"run{seed}", run__seed=seed, data__split_seed=seed) for seed in range(3)]
    assert remarks(group_by_settings(runs)) == [
        "no two runs differ in run.seed alone; what differs, too: data.split_seed"
    ]
    assert [row[1] for row in table_of_groups(group_by_settings(runs, "data.split_seed")).rows] == [1, 1, 1]


def test_a_larger_accuracy_is_better() -> None:
    runs = seeds(low=[0.1, 0.2], high=[0.8, 0.9])
    for run in runs:
        run["monitor_mode"] = "max"
    assert [row[0] for row in table_of_groups(group_by_settings(runs)).rows] == ["high", "low"]
    best = best_of(runs)
    assert best is not None and best["best"] == 0.9
    runs[0]["monitor"] = "val/accuracy"
    with pytest.raises(UserError, match="monitor different values"):
        best_of(runs)
    assert best_of([make("x", {}), make("y", status="running")]) is None


# --- columns and formats

HOSTILE = "\x1b]0;owned\x07[red]\n\u202e</td>|a & b_c$%#{}~^\\ =1+1"


def test_columns_choose_themselves() -> None:
    runs = [make(f"run{index}", {"train/loss": 1.0, "val/loss": 2.0, "val/f1": 1.0, "test/f1": 0.5, "rollout/x": 1.0},
                 a__same=1, a__list=[index], a__flag=[True, 1][index], run__name=f"{index}", run__tags=[index],
                 data__dataset___target_=f"d.Data{index}", **{f"only{index}.x": index})
            for index in range(2)]  # fmt: skip
    assert varying(runs) == ["data", "a.list", "a.flag", "only0.x", "only1.x"]
    assert metrics(runs) == ["val/loss", "test/f1", "rollout/x"]
    runs[0]["note"] = "odd"
    table = table_of_runs(runs)
    assert table.head == ["run", "age", "status", *varying(runs), *metrics(runs), "step", "note"]
    assert table.rows[0][:5] == ["run0", "2 h", "finished", "data0", [0]] and table.rows[0][-2:] == ["8/8", "odd"]
    assert table_of_runs(runs, ["a.same"]).rows[1] == ["run1", "2 h", "finished", 1, "8/8"]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    settings = {f"group.setting{index}": "x" * 10 * index for index in range(12)}
    runs = [make(f"exp_a/{'long_name_' * 6}job{index}") for index in range(3)]
    for index, run in enumerate(runs):
        run["settings"] = {key: f"{index}{value}" for key, value in settings.items()}
    shown = re.sub(r"\x1b\[\d+m", "", table_of_runs(runs).as_text(width)).splitlines()
    assert all(len(line) <= width for line in shown[:4]) and all("job" in line for line in shown[1:4])
    assert all(word in shown[0] for word in ("run", "status")) and "too narrow: age" in shown[4]
    groups = table_of_groups(group_by_settings(seeds(one=[1.0, 2.0, 3.0], other=[2.0, 2.5, 3.5]))).as_text(width)
    assert all(len(line) <= width for line in groups.splitlines())
    assert groups.count("optimizer.name") == {60: 2, 80: 2, 120: 1}[width]


def test_widths_of_letters() -> None:
    assert [width_of(text) for text in ("abc", "日本", "e\u0301", "é")] == [3, 4, 1, 1]
    table = Table(["run", "x"], [["日本", 1], ["abcd", 22]])
    assert [width_of(line) for line in table.as_text(80).splitlines()] == [8, 8, 8]


@pytest.mark.parametrize("form", FORMATS)
def test_hostile_texts(form: str) -> None:
    run = make(HOSTILE, {"val/loss": 0.1, f"test/{HOSTILE}": 1.0}, **{HOSTILE: HOSTILE, "x": 1.5})
    run |= {"description": HOSTILE, "status": HOSTILE, "tags": [HOSTILE], "short": HOSTILE}
    other = make("other", {}, status="failed")
    groups = group_by_settings([run | {"status": "finished"}, make("b")])
    for table in (table_of_runs([run, other]), table_of_groups(groups), table_of_differences([run, other])):
        text = table.in_format(form)
        assert not set(text) & {"\x1b", "\x07", "\u202e"} and "owned" in text
        assert len(text.splitlines()) == len(table.rows) + {"text": 1, "csv": 1, "md": 2, "latex": 6}[form]
    on_terminal = table_of_runs([run, other]).as_text(200)
    assert (
        set(re.findall(r"\x1b.{4}", on_terminal)) == {"\x1b[31m", "\x1b[39m", "\x1b[0m"} or "\x1b]" not in on_terminal
    )


def test_formats() -> None:
    table = Table(["run", "a_b"], [["x|y", 0.123456789], ["50 % & ~", None], ["[1](z)", True]])
    rows = list(csv.reader(io.StringIO(table.as_csv())))
    assert rows == [["run", "a_b"], ["x|y", "0.123456789"], ["50 % & ~", ""], ["[1](z)", "true"]]
    assert table.as_markdown().splitlines()[2:] == [r"| x\|y | 0.1235 |", r"| 50 % & \~ |  |", r"| \[1\](z) | true |"]
    assert r"50 \% \& \textasciitilde{} &  \\" in table.as_latex() and r"run & a\_b \\" in table.as_latex()
    hostile = Table(["a"], [[f'{HOSTILE}"quoted",x']])
    assert list(csv.reader(io.StringIO(hostile.as_csv())))[1][0].endswith('=1+1"quoted",x')


# --- names and folders


def test_short_names_are_those_that_find_run_takes(tmp_path: Path) -> None:
    names = ["2026-01-01_09-00-00_calm_otter", "2026-01-02_09-00-00_calm_otter", "2026-01-03_09-00-00_shy_mole", "mole",
             "exp_a/2026-01-04_09-00-00_odd_ibis_job0", "exp_b/job0", "exp_c/job0", "dev/2026-01-05_09-00-00_red_fox",
             "2026-01-06_09-00-00_old", "old", "old_2", "2026-01-07_09-00-00_new", "new_2"]  # fmt: skip
    for name in names:
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.yaml").write_text("{}")
    found = short_names(names)
    assert all(find_run(short, tmp_path) == tmp_path / name for name, short in found.items())
    assert [found[names[index]] for index in (0, 2, 4, 5, 7, 8, 11)] == [
        names[0], "shy_mole", "odd_ibis_job0", "exp_b/job0", "red_fox", names[8], "new"
    ]  # fmt: skip
    assert {run["name"] for run in read_runs(tmp_path, has_dev=True)} == set(names)
    assert "dev/2026-01-05_09-00-00_red_fox" not in {run["name"] for run in read_runs(tmp_path)}
    assert find_run("ibis", tmp_path) == tmp_path / names[4]  # a part that no other run has
    with pytest.raises(UserError, match="stands for 2 runs"):
        find_run("otter", tmp_path)


def test_values_that_sqlite_has_not() -> None:
    runs = [make("big", {"val/loss": math.inf}, a__x=10**30, a__y="\ud800", a__z={}), make("other", {}, a__x=1)]
    assert select(runs, "a.x > 1 and val/loss > 1e300 and a.y like '%' and a.z = '{}'") == [runs[0]]
