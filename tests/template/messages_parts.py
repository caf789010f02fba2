"""What the broken configs of scripts/template/messages.py name: data that may not be read, a model with annotations."""

from typing import Any, Literal

from torch import Tensor, nn

NUMBER = 3  # not a class


class Unread:
    """A dataset that ends the program: no data may be read while a config is looked at."""

    def __init__(self, split: str, num_items: int, scale: float = 1.0) -> None:
        raise SystemExit("the data were read")


class WithoutSplit:
    """A dataset that does not take what the template passes."""

    def __init__(self, num_items: int) -> None:
        raise SystemExit("the data were read")


class Picky(nn.Module):
    """A model that says what it takes."""

    def __init__(
        self,
        num_features: int,
        kind: Literal["plain", "deep"] = "plain",
        sizes: list[int] | None = None,
        rate: float = 0.1,
        weight: float | Tensor = 1.0,
        is_wide: bool = False,
        title: str = "",
        pair: tuple[float, float] = (0.0, 1.0),
        table: dict[str, int] | None = None,
        part: nn.Module | None = None,
        parts: list[nn.Module] | None = None,
        free: Any = None,
    ) -> None:
        raise SystemExit("the model was built")
