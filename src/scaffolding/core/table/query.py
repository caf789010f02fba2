"""Which runs, in which order: an expression over their columns, which sqlite3 works out. Does not import torch.

`optimizer.lr < 1e-2 and (data=digits or note like '%warm-up%')`. Every word of an expression must be a column, an
operator, a function of FUNCTIONS, a number, or a text: in quotes, or bare where it is compared and has no dot. So
nothing but an expression ever comes to sqlite3.

What is compared: numbers as numbers, even where a config has them as texts ('8'); true as 1 and false as 0; a list as
its JSON text, which may be written [64, 32]; `has(run.tags, pilot)` looks into one. What a run does not have is NULL,
and so is NaN: NULL is neither equal to anything nor different from it, and sorts last; `= null` means `is null`. A
number is smaller than any text. A division is never one of whole numbers.
"""

import json
import re
import sqlite3
from collections.abc import Sequence
from typing import Any

import yaml

from ..errors import UserError, nearest
from .runs import TEXTS, Run, columns, number, value
from .show import cell

KEYWORDS = {
    "and", "or", "not", "is", "in", "like", "glob", "between", "null", "true", "false", "case", "when", "then", "else",
    "end", "escape", "isnull", "notnull", "collate", "nocase",
}  # fmt: skip
FUNCTIONS = {
    "abs", "round", "lower", "upper", "length", "coalesce", "ifnull", "nullif", "iif", "min", "max", "substr", "instr",
    "replace", "trim", "has",
}  # fmt: skip
COMPARISONS = ("=", "==", "!=", "<>", "<", "<=", ">", ">=")
TOKEN = re.compile(
    r"""(?P<space>\s+)
    |(?P<text>'(?:[^']|'')*')
    |(?P<quoted>"(?:[^"]|"")+")
    |(?P<list>\[[^][]*\])
    |(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]))
    |(?P<word>[\w.](?:[\w./+-]*\w)?)
    |(?P<operator><=|>=|<>|!=|==|[-+*/%<>=(),])""",
    re.VERBOSE,
)
ENDS = re.compile(r"(?=[/+-])")  # where a word may end that is not a column as a whole: loss-1


def select(runs: Sequence[Run], where: str | None = None, sort: str | None = None) -> list[Run]:
    """The runs that fit `where`, in the order of `sort`: an expression, ascending, or descending behind a minus.

    `best` sorts the best runs first, whether the smallest or the largest value is the best.

    Raises:
        UserError: a column is not there; something is not an expression.
    """
    if not runs or not (where or sort):
        return list(runs)
    names = columns(runs)
    used: dict[str, str] = {}  # the columns that are asked for, by their names in SQL
    condition, order = Expression("--where", names, used), Expression("--sort", names, used)
    query, direction = "select i from runs", "asc"
    if where:
        query += f" where ({condition.translate(where)})"
    if sort:
        if sort.startswith("-"):
            sort, direction = sort[1:], "desc"
        key = order.translate("iif(_is_max, -best, best)" if sort == "best" else sort)
        query += f" order by ({key}) is null, ({key}) {direction}, i"
    kinds = [f", {short} {'text' if name in TEXTS else 'numeric'}" for name, short in used.items()]
    database = sqlite3.connect(":memory:")
    database.create_function("has", 2, _has, deterministic=True)
    database.execute(f"create table runs (i integer primary key{''.join(kinds)})")
    rows = ((index, *(_plain(run, name) for name in used)) for index, run in enumerate(runs))
    database.executemany(f"insert into runs values (?{', ?' * len(used)})", rows)
    values = [*condition.values, *order.values, *order.values]
    try:
        return [runs[index] for (index,) in database.execute(query, values)]
    except sqlite3.Error as error:
        raise UserError(_in_words(error, condition if where else order, used)) from None
    finally:
        database.close()


def values_of(runs: Sequence[Run], where: str, most: int = 8) -> list[str]:
    """A line for each text column that an expression names, with the values that it has: nothing may fit a typo."""
    lines = []
    used: dict[str, str] = {}
    if runs and where:
        Expression("--where", columns(runs), used).translate(where)
    for name in used:
        found = dict.fromkeys(value(run, name) for run in runs if isinstance(value(run, name), str))
        if found and name not in ("name", "description", "note", "reason"):
            more = ", ..." if len(found) > most else ""
            lines.append(f"{name} is one of {', '.join(map(cell, list(found)[:most]))}{more}")
    return lines


def _in_words(error: sqlite3.Error, expression: "Expression", used: dict[str, str]) -> str:
    """An error of sqlite3 with the columns under their own names."""
    names = {short: name for name, short in used.items()}
    text = re.sub(r"\bc\d+\b", lambda found: names.get(found[0], found[0]), str(error))
    return f"{expression.option}: {text}\nin: {expression.text}"


def _plain(run: Run, name: str) -> Any:
    """A value as sqlite3 takes it."""
    found = run["monitor_mode"] == "max" if name == "_is_max" else value(run, name)
    if isinstance(found, str):
        return found.encode(errors="replace").decode()
    if isinstance(found, int) and not -(2**63) <= found < 2**63:
        return number(run, name)
    if isinstance(found, int | float | None):
        return found
    return json.dumps(found, default=str)


def _has(texts: Any, wanted: Any) -> bool | None:
    """Whether a list, as JSON text, holds a value."""
    try:
        parts = json.loads(texts)
    except (TypeError, ValueError):
        return None
    return isinstance(parts, list) and wanted in parts


class Expression:
    """Translates an expression into SQL, token by token.

    Args:
        option: that it belongs to, for messages.
        names: the columns that there are.
        used: gets the columns that the expression names, with their names in SQL.
    """

    def __init__(self, option: str, names: list[str], used: dict[str, str]) -> None:
        self.option, self.names, self.used = option, {*names, "_is_max"}, used
        self.values: list[Any] = []  # for the question marks
        self.text = ""

    def translate(self, text: str) -> str:
        """The SQL; UserError: a column is not there, or this is not an expression."""
        self.text = text = text.encode(errors="replace").decode()
        self.sql: list[str] = []
        self.openers = [""]  # of each parenthesis that is open: the word before it
        self.compared = [False]  # and whether something is compared there already
        self.before = ""  # the last token, in lower case
        position = 0
        while position < len(text):
            found = TOKEN.match(text, position)
            if found is None:
                raise self.wrong(f"{text[position]!r} is not allowed here\nallowed: {', '.join(sorted(KEYWORDS))}")
            token, kind = found[0], str(found.lastgroup)
            if kind == "word":
                token = self._known_part(token)
            position += len(token)
            if kind != "space":
                self._add(token, kind, text[position:])
                self.before = token.lower()
        if len(self.openers) > 1:
            raise self.wrong("a parenthesis is not closed")
        if not self.sql:
            raise self.wrong("it is empty")
        return " ".join(self.sql)

    def wrong(self, what: str) -> UserError:
        first, _, rest = what.partition("\n")
        return UserError(f"{self.option}: {first}\n{rest or f'in: {self.text}'}")

    def _known_part(self, word: str) -> str:
        """The longest beginning of a word that is a column, or the whole word."""
        for end in [len(word), *sorted((cut.start() for cut in ENDS.finditer(word)), reverse=True)]:
            if word[:end] in self.names:
                return word[:end]
        return word

    def _add(self, token: str, kind: str, rest: str) -> None:
        lower = token.lower()
        if kind == "operator":
            self._add_operator(token)
        elif kind == "number":
            self.sql.append(token)
        elif kind == "text":
            self._add_value(token[1:-1].replace("''", "'"))
        elif kind == "list":
            self._add_value(json.dumps(self._read_list(token)))
        elif kind == "quoted":
            self._add_column(token[1:-1].replace('""', '"'))
        elif lower in KEYWORDS:
            self._add_keyword(lower)
        elif token in self.names:
            self._add_column(token)
        elif lower in FUNCTIONS and rest.lstrip().startswith("("):
            self.sql.append(lower)
        elif self._is_compared() and (token[0].isdigit() or not set(token) & set("./")):
            self._add_value(token)
        else:
            self._add_column(token)

    def _is_compared(self) -> bool:
        """Whether a bare word may stand here for a text."""
        opener = self.openers[-1]
        is_part = opener == "in" or (opener in FUNCTIONS and self.before == ",")
        is_not = self.sql[-2:] == ["is", "not"]
        return is_part or is_not or self.before in ("=", "==", "!=", "<>", "is", "like", "glob")

    def _add_value(self, content: Any) -> None:
        self.values.append(content)
        self.sql.append("?")

    def _add_column(self, name: str) -> None:
        if name not in self.names:
            near = ", ".join(nearest(name, self.names - {"_is_max"}))
            raise self.wrong(f"no such column {name!r}; nearest: {near}\na text: '{name}'")
        self.sql.append(self.used.setdefault(name, f"c{len(self.used)}"))

    def _add_keyword(self, word: str) -> None:
        if word == "null" and self.before in ("=", "==", "!=", "<>"):  # which would never be true
            self.sql[-1] = "is" if self.before in ("=", "==") else "is not"
        if word in ("and", "or", "not", "when", "then", "else"):
            self.compared[-1] = False
        self.sql.append(word)

    def _add_operator(self, token: str) -> None:
        if token == "(":
            self.openers.append(self.before)
            self.compared.append(False)
        elif token == ")":
            self.openers.pop()
            self.compared.pop()
            if not self.openers:
                raise self.wrong("a parenthesis is closed that was not opened")
        elif token == ",":
            self.compared[-1] = False
        elif token in COMPARISONS:
            if self.compared[-1]:  # SQL would compare the outcome of the first, 0 or 1
                raise self.wrong("two comparisons in a row\njoin them by and: 0 < lr and lr < 1")
            self.compared[-1] = True
        elif token == "/":
            self.sql += ["*", "1.0"]
        self.sql.append(token)

    def _read_list(self, token: str) -> list[Any]:
        try:
            found = yaml.safe_load(token)
        except yaml.YAMLError:
            found = None
        if not isinstance(found, list):
            raise self.wrong(f"{token} is not a list")
        return found
