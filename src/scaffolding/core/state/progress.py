"""Where a run stands."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class RunState:
    """Where a run stands: all that finding the next batch and judging the next evaluation need."""

    step: int = 0  # optimizer steps taken
    epoch: int = 0
    position: int = 0  # micro-batches used of the running epoch
    samples: int = 0  # training items used
    looks: list[str] = field(default_factory=list)  # due after saving this step: eval, rollout, plot
    best: float | None = None  # best monitored value; in a checkpoint, of the evaluations before its own step
    best_step: int | None = None
    evaluations_since_best: int = 0
    target_reached: bool = False  # a logged training loss was below run.target_loss

    def restore(self, saved: dict[str, Any]) -> None:
        """Take over the fields of another state, in place: whoever holds this one sees them."""
        vars(self).update(vars(RunState(**saved)))

    def advance(self, num_batches: int, num_items: int, batches_per_epoch: int) -> None:
        """Count one optimizer step."""
        self.step += 1
        self.samples += num_items
        self.position += num_batches
        if self.position == batches_per_epoch:
            self.epoch += 1
            self.position = 0

    @property
    def epoch_of_step(self) -> int:
        """The epoch that the last step belongs to, counted from 0."""
        return self.epoch - self.is_new_epoch

    @property
    def is_new_epoch(self) -> bool:
        """Whether the last step was the last of its epoch."""
        return self.position == 0 and self.step > 0

    def is_better(self, value: float, mode: str) -> bool:
        """Whether a monitored value is better than the best so far; NaN never is."""
        if self.best is None:
            return value == value
        if mode == "min":
            return value < self.best
        return value > self.best
