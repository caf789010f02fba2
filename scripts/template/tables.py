"""The tables that programs here write into a README.md, each between two marks."""

from pathlib import Path

END = "<!-- end -->\n"


def read_table(readme: Path, program: str) -> str:
    """What a program has written there; `program` is its name without .py."""
    return _parts(readme, program)[1].strip()


def write_table(readme: Path, program: str, lines: list[str]) -> None:
    """Put lines there, in the place of what a program has written before."""
    before, _, after = _parts(readme, program)
    readme.write_text("\n".join([before, *lines, "", f"{END}{after}"]))


def _parts(readme: Path, program: str) -> tuple[str, str, str]:
    before, mark, rest = readme.read_text().partition(f"<!-- written by scripts/template/{program}.py -->\n")
    table, _, after = rest.partition(END)
    return before + mark, table, after
