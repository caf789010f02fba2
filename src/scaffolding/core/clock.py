"""Where the time of a run goes: wall seconds of this process by phase of the loop. Nothing waits for the device."""

import time

TRAINING = ("data", "forward", "backward", "step", "device")  # device: the wait until it has done what it was given
PHASES = (*TRAINING, "log", "evaluate", "rollout", "plot", "save")


class Clock:
    """Adds up seconds by phase. `enter(phase)`: from here on, time counts for that phase; yours get a name of yours."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PHASES, 0.0)  # since the last call of `read`
        self.phase = "data"
        self.since = time.perf_counter()
        self.epoch_seconds: float | None = None  # of the last epoch that ended since the last call of `read_epoch`
        self.epoch_since: float | None = None  # None: this process has not seen its beginning

    def start(self, is_new_epoch: bool) -> None:
        """Begin: building data and model does not count."""
        self.__init__()  # type: ignore[misc]
        if is_new_epoch:
            self.epoch_since = self.since

    def enter(self, phase: str) -> None:
        """Count the time since the last call for the phase that ends here."""
        now = time.perf_counter()
        self.seconds[self.phase] = self.seconds.get(self.phase, 0.0) + now - self.since
        self.phase, self.since = phase, now

    def end_epoch(self) -> None:
        """An epoch has ended, and the next one begins. Its evaluations, figures and saves count for the next."""
        now = time.perf_counter()
        if self.epoch_since is not None:
            self.epoch_seconds = now - self.epoch_since
        self.epoch_since = now

    def read(self) -> dict[str, float]:
        """Seconds by phase since the last call."""
        self.enter(self.phase)
        found, self.seconds = self.seconds, dict.fromkeys(PHASES, 0.0)
        return found

    def read_epoch(self) -> float | None:
        """Seconds of the last epoch that ended since the last call."""
        found, self.epoch_seconds = self.epoch_seconds, None
        return found


def training_seconds(seconds: dict[str, float]) -> float:
    """Seconds of training steps among those of all phases."""
    return sum(seconds.get(phase, 0.0) for phase in TRAINING)


def is_waiting_for_data(seconds: dict[str, float]) -> bool:
    """Whether the loop waits for data while the device has nothing to do."""
    total = training_seconds(seconds)
    return total > 0 and seconds.get("data", 0.0) > 0.2 * total and seconds.get("device", 0.0) < 0.05 * total


def duration(seconds: float) -> str:
    """Seconds in the unit that fits: 8.6 s, 12 min, 3.4 h, 2.1 days."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    if seconds < 10:
        return f"{seconds:.1f} s"
    return f"{seconds:.0f} s"
