"""What seeds tell: mean, spread and interval of a group, and a paired test of two groups. Does not import torch.

No scipy: it would be 140 MB for two functions.
"""

import math
import random
from collections.abc import Sequence
from typing import NamedTuple

MOST_EXACT = 16  # pairs, of which all 2^n sign flips are counted
NUM_DRAWS = 50_000  # sign flips of more pairs
FEWEST = 6  # pairs below which P cannot come below 0.05


class Summary(NamedTuple):
    """Of several values: how many, their mean, sample standard deviation, and half the width of the 95 % interval of
    the mean; None where one value tells nothing of it.
    """

    num: int
    mean: float
    std: float | None
    half: float | None

    def __str__(self) -> str:
        if self.std is None or self.half is None:
            return f"{self.mean:.4g}  one seed"
        return f"{self.mean:.4g} ± {self.std:.2g}  [{self.mean - self.half:.4g}, {self.mean + self.half:.4g}]"


def summarise(values: Sequence[float]) -> Summary:
    """The summary of at least one value; the interval is Student's."""
    count = len(values)
    mean = math.fsum(values) / count
    if count == 1:
        return Summary(1, mean, None, None)
    std = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    return Summary(count, mean, std, t_quantile(0.975, count - 1) * std / math.sqrt(count))


def t_probability(t: float, df: int) -> float:
    """P(T <= t) of Student's distribution with `df` degrees of freedom, t >= 0.

    A finite sum: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4.
    """
    angle = math.atan(t / math.sqrt(df))
    cos, cos2 = math.cos(angle), math.cos(angle) ** 2
    term, total = (cos, 0.0) if df % 2 else (1.0, 0.0)
    for number in range(df % 2 + 1, df, 2):
        total += term
        term *= cos2 * number / (number + 1)
    inner = math.sin(angle) * total
    if df % 2:
        inner = 2 / math.pi * (angle + inner)
    return (1 + inner) / 2


def t_quantile(probability: float, df: int) -> float:
    """The t of which `t_probability` is this, above 0.5; by bisection."""
    low, high = 0.0, 1.0
    while t_probability(high, df) < probability:
        low, high = high, 2 * high
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        if t_probability(middle, df) < probability:
            low = middle
        else:
            high = middle
    return high


def paired_p(differences: Sequence[float]) -> float:
    """P of the two-sided sign-flip test: how often a sum is as large if each pair may be the other way round.

    Exact up to MOST_EXACT pairs. Of more, NUM_DRAWS flips are drawn with a fixed seed, and the one that was seen counts
    with them (Phipson and Smyth, Permutation P-values should never be zero, 2010).
    """
    seen = abs(math.fsum(differences))
    least = seen - 1e-9 * math.fsum(map(abs, differences))  # sums in another order differ in their last bits
    if len(differences) <= MOST_EXACT:
        sums = [0.0]
        for difference in differences:
            sums = [total + difference for total in sums] + [total - difference for total in sums]
        return sum(abs(total) >= least for total in sums) / len(sums)
    generator = random.Random(0)
    count = 1
    for _ in range(NUM_DRAWS):
        signs = generator.getrandbits(len(differences))
        flipped = math.fsum(one if signs >> place & 1 else -one for place, one in enumerate(differences))
        count += abs(flipped) >= least
    return count / (NUM_DRAWS + 1)


def describe_test(differences: Sequence[float]) -> str:
    """The outcome of the test in words."""
    count = len(differences)
    if count < 2:
        return f"no test: {count} seed{'s' * (count != 1)} in common"
    text = f"p {paired_p(differences):.2g}, {count} pairs"
    if count < FEWEST:
        text += f" (not enough seeds: {2 / 2**count:.2g} is the least it can be)"
    return text
