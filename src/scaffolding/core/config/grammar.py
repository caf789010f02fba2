"""The words of a command line, as Hydra's grammar can read them."""

import dataclasses
import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException

from ..errors import UserError

WITH_VALUE = ("--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp", "--package", "-p", "--cfg", "-c")
SHORT = {"-c": "--cfg", "-p": "--package"}
PLAIN_WORD = re.compile(r"(?!(null|true|false|nan|inf)$)[A-Za-z_*][\w.*-]*", re.ASCII)
SEVERAL = ("plots", "tracker")  # groups of which a run may choose several
NAMED = (*SEVERAL, "metrics")  # groups whose blocks have names
OPTIONS = (
    *WITH_VALUE, "--help", "-h", "--hydra-help", "--version", "--resolve", "--run", "-r", "--multirun", "-m",
    "--shell-completion", "-sc", "--experimental-rerun", "--info", "-i", "--check", "-y",
)  # fmt: skip


def split_options(words: list[str]) -> tuple[list[str], list[str]]:
    """The options among the words of a command line, with their values, and the others.

    Raises:
        UserError: an unknown option; its value, perhaps a key, is not repeated.
    """
    options, others, rest = list[str](), list[str](), iter(words)
    for word in rest:
        if word.startswith("-"):
            name = word.partition("=")[0]
            if name not in OPTIONS:
                raise UserError(
                    f"{name}: no such option\nsettings are written without dashes: {name.lstrip('-') or 'KEY'}=VALUE"
                )
            taken = [word]
            if word in WITH_VALUE:
                taken += itertools.islice(rest, 1)
            name = SHORT.get(name, name)
            if name in SHORT.values():  # in one of four spellings: two words from here on
                taken = [name, *"=".join(taken).split("=", 1)[1:]]
            options += taken
        else:
            others.append(word)
    return options, others


def config_dirs(words: list[str]) -> list[str]:
    """The folders that --config-dir names on a command line."""
    found = [word.partition("=")[2] for word in words if word.startswith(("--config-dir=", "-cd="))]
    return found + [place for word, place in itertools.pairwise(words) if word in ("--config-dir", "-cd")]


def search_path(folders: list[str]) -> list[str]:
    """The word that adds folders of configs where Hydra composes without a command line; none without folders."""
    if not folders:
        return []
    return [f"hydra.searchpath=[{','.join(quoted(f'file://{Path(folder).absolute()}') for folder in folders)}]"]


def key_of(word: str) -> str:
    """The key, or the group, that a word of a command line sets, adds (`+`) or removes (`~`)."""
    return word.partition("=")[0].lstrip("+~")


def quoted(text: str) -> str:
    """A text as Hydra reads it, whatever its letters are."""
    quote = Quote.single
    if "'" in text and '"' not in text:
        quote = Quote.double
    return QuotedString(text, quote).with_quotes()


def unquoted(text: str) -> str:
    """A text without the quotes around it, if there are some."""
    if len(text) > 1 and text[0] in "'\"" and text[0] == text[-1]:
        return text[1:-1]
    return text


def free_texts(schema: Any, section: str = "", kinds: tuple[Any, ...] = (str, str | None)) -> Iterator[str]:
    """The settings of a schema that may be any text, or of other `kinds`: `run.description` and paths are texts."""
    for field in dataclasses.fields(schema):
        if dataclasses.is_dataclass(field.type):
            yield from free_texts(field.type, f"{field.name}.", kinds)
        elif section and field.type in kinds and field.metadata["check"] is None:
            yield f"{section}{field.name}"


def readable(words: list[str], schema: Any, is_sweep: bool) -> list[str]:
    """The words of a command line with quotes around what can only be a text.

    That is the value of a setting that may be any text, and what Hydra cannot read where it looks like words or a path.

    Raises:
        UserError: several values without --multirun; what Hydra cannot read, with quotes to be pasted. The first one.
    """
    found = list(reading(words, schema, is_sweep))
    for text in found:
        if isinstance(text, UserError):
            raise text
    return [text for text in found if isinstance(text, str)]


def reading(words: list[str], schema: Any, is_sweep: bool) -> Iterator[str | UserError]:
    """Each word as in `readable`, or what is wrong with it."""
    texts, lists = set(free_texts(schema)), set(free_texts(schema, kinds=(list[str],)))
    for word in words:
        try:
            yield _readable(word, texts, lists, is_sweep)
        except UserError as error:
            yield error


def _readable(word: str, texts: set[str], lists: set[str], is_sweep: bool) -> str:
    key, equals, value = word.partition("=")
    if not equals and not key.startswith("~"):
        raise UserError(f"{word}: it has no value\nwrite {word}=VALUE")
    name, is_quoted, parsed, problem = key.lstrip("+"), f"{key}={quoted(value)}", None, ""
    if value in ("", "null") or name.startswith("hydra"):
        return word
    try:
        parsed = OverridesParser.create().parse_override(word)
    except HydraException as error:
        problem = str(error).partition("\n")[0]
    has_several = parsed is not None and parsed.is_sweep_override()
    if name in texts:
        is_meant = is_sweep and has_several and not name.startswith("paths.")
        if is_meant or (parsed is not None and not has_several and _is_plain_text(parsed, value)):
            return word
        return is_quoted
    if has_several and not is_sweep:
        advice = "one run for each of them: add --multirun"
        if "." in name:
            advice += f"; a list: {key}=[{value}]; one text: {shlex.quote(is_quoted)}"
        elif name in SEVERAL:
            advice += f"; all of them in one run: {key}=[{value}]"
        raise UserError(f"{word}: several values\n{advice}")
    if parsed is not None and name in lists:
        return _with_texts(word, parsed.value())
    if parsed is not None:
        return word
    looks_like_text = any(letter in "/~" or letter.isspace() or not letter.isascii() for letter in value)
    if looks_like_text and value[0] not in "[{('\"" and not is_sweep:
        return is_quoted
    raise UserError(
        f"{word}: it cannot be read ({problem})\nif it is one text, put it into quotes: {shlex.quote(is_quoted)}"
    )


def _with_texts(word: str, items: Any) -> str:
    """A list of texts in which Hydra reads numbers, with quotes: [1234e5] means the text."""
    key, _, value = word.partition("=")
    if not isinstance(items, list) or all(isinstance(item, str) for item in items):
        return word
    try:
        texts = yaml.load(value, yaml.BaseLoader)
    except yaml.YAMLError:
        raise UserError(f"{word}: a number is not a text\nput each text into quotes: {key}=['1e5','b']") from None
    return f"{key}=[{','.join(quoted(str(text)) for text in texts)}]"


def _is_plain_text(parsed: Override, value: str) -> bool:
    """Whether Hydra takes a value for the text that stands there, or for what stands in its quotes."""
    return value[0] in "'\"" or parsed.value() == value


def as_word(value: Any) -> str:
    """A plain value in Hydra's grammar."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {as_word(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(as_word, value)) + "]"
    if value is None or isinstance(value, bool):
        return str(value).lower().replace("none", "null")
    if isinstance(value, str) and not PLAIN_WORD.fullmatch(value):
        escaped = value.replace("\\", "\\\\").replace("'", "\\'")
        return f"'{escaped}'"
    return str(value)
