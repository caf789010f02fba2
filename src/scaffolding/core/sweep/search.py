"""A search, whose points Optuna chooses by the best values of those before."""

import importlib
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override

from ..config.grammar import split_options
from ..errors import UserError
from .points import Sweep
from .words import parsed, values


class Search:
    """A study of Optuna, whose trial N is point N. Only finished points are told: others are done again.

    Nothing is written before `open_study`.

    Raises:
        UserError: Optuna is not installed; no word has several values, or an interval is empty; the first point of a
            new search does not compose, or has no value to go after.
    """

    def __init__(self, sweep: Sweep) -> None:
        try:
            self.optuna: Any = importlib.import_module("optuna")
            self.journal: Any = importlib.import_module("optuna.storages.journal")
        except ImportError:
            raise UserError("--trials: optuna is not installed\nonce: pdm install -G sweep") from None
        self.optuna.logging.set_verbosity(self.optuna.logging.WARNING)
        self.sweep = sweep
        self.options, words = split_options(sweep.words)
        overrides = {word: parsed(word) for word in words}
        self.fixed = [word for word in words if not overrides[word].is_sweep_override()]
        self.searched = {word.partition("=")[0]: overrides[word] for word in words if word not in self.fixed}
        if not self.searched:
            raise UserError("--trials: no word has several values\ngive one, e.g. 'optimizer.lr=interval(1e-4, 1e-1)'")
        self.distributions = {key: self._distribution(override) for key, override in self.searched.items()}
        self.direction: str | None = None  # that of a study that exists
        if sweep.is_new or not sweep.has_study():
            self.direction = self._direction()

    def open_study(self) -> None:
        """Begin the study, or go on with it: it is told what has finished meanwhile.

        Raises:
            UserError: the file of the study is damaged.
        """
        file = self.sweep.study()
        cut_half_line(file)
        try:
            storage = self.optuna.storages.JournalStorage(self.journal.JournalFileBackend(str(file)))
            self.study: Any = self.optuna.create_study(
                storage=storage, study_name=self.sweep.folder.name, direction=self.direction, load_if_exists=True
            )
        except ValueError as error:
            raise UserError(f"{file} is damaged: {error!s:.100}\nanother name starts another search") from error
        for trial in self.study.trials:
            self._note(trial)
            if self.sweep.is_finished(trial.number) and not trial.state.is_finished():
                self.tell(trial.number)

    def todo(self, unfinished: list[int], num_trials: int) -> Iterator[int]:
        """The points that are to be done; new ones are asked for until there are `num_trials`."""
        yield from unfinished
        while len(self.sweep.points) < num_trials:
            trial = self.study.ask(self.distributions)
            self._note(trial)
            yield trial.number

    def tell(self, job: int) -> None:
        """Give the study the best value of a finished run. Of one that was done again it keeps the first value."""
        value = self.sweep.status(job).get("best")
        if value is None:
            print(f"job{job}: it has no best value for the search: set run.monitor=val/KEY", file=sys.stderr)
            return
        self.study.tell(job, value, skip_if_finished=True)

    def _note(self, trial: Any) -> None:
        """Write the words of a trial into points.txt; those that a kill left without some get the first values."""
        self.sweep.points[trial.number :] = [self._point(trial.params)]
        self.sweep.write_points()

    def _point(self, drawn: dict[str, Any]) -> list[str]:
        """The words of a point with these values, and with the first of those that are not given."""
        chosen = {key: drawn.get(key, _first(override)) for key, override in self.searched.items()}
        return [*self.options, *self.fixed, *(f"{key}={value}" for key, value in chosen.items())]

    def _direction(self) -> str:
        """Whether the monitored value should fall or rise, by the config of the first point."""
        run = self.sweep.composed(self._point({}))["run"]
        if run["monitor"] is None:
            raise UserError("run.monitor=null: a search needs a value to go after\nset run.monitor=val/KEY")
        return {"min": "minimize", "max": "maximize"}[run["monitor_mode"]]

    def _distribution(self, override: Override) -> Any:
        """What Optuna draws from; UserError: it is shuffled, or an interval is empty, endless or logarithmic from 0."""
        of = self.optuna.distributions
        if getattr(override.value(), "shuffle", False):  # Optuna knows choices by their order
            raise UserError(
                f"{override.input_line}: not in a search, which has an order of its choice\nleave shuffle out"
            )
        if not override.is_interval_sweep():
            return of.CategoricalDistribution(values(override))
        value: Any = override.value()
        is_log, is_int, ends = "log" in value.tags, "int" in value.tags, (value.start, value.end)
        try:
            if unknown := value.tags - {"log", "int"}:
                raise ValueError(f"{', '.join(sorted(unknown))}: no such tag")
            if not all(math.isfinite(end) and (float(end).is_integer() or not is_int) for end in ends):
                raise ValueError("an end is not a whole number" if is_int else "an end is not a number")
            if is_int:
                return of.IntDistribution(*map(int, ends), log=is_log)
            return of.FloatDistribution(*ends, log=is_log)
        except ValueError as error:
            raise UserError(
                f"{override.input_line}: {error}\nallowed: interval(FROM, TO), FROM below TO; tag(log, ...): above 0; "
                "tag(int, ...): whole numbers"
            ) from error


def cut_half_line(file: Path) -> None:
    """Remove what a full disk or a power cut left of the last entry of Optuna's journal, which has one in each line."""
    if not file.exists():
        return
    content = file.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        os.truncate(file, len(whole))


def _first(override: Override) -> Any:
    """A value of those that are searched."""
    if override.is_interval_sweep():
        value: Any = override.value()
        return value.start
    return values(override)[0]
