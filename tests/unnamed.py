"""Code that no YAML file of this checkout names: a run made with it needs trust= when it is opened."""

from tiny import TinyLoss


class CountingLoss(TinyLoss):
    """The same under another name."""
