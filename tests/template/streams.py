"""What test_streams.py trains besides the reader of configs/README.md: a policy of a cart with a pole on it."""

import copy
import math
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Batch = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


class CartPole:
    """Barto, Sutton and Anderson's cart, which is pushed to the left or right so that the pole on it stays up."""

    def reset(self) -> np.ndarray:
        self.state, self.num_steps = np.random.uniform(-0.05, 0.05, 4), 0
        return self.state.astype(np.float32)

    def step(self, action: int) -> tuple[np.ndarray, float, bool]:
        """(observation, reward, whether the episode is over)."""
        _, speed, angle, turn = self.state
        force, sine, cosine = (10.0 if action else -10.0), math.sin(angle), math.cos(angle)
        push = (force + 0.05 * turn**2 * sine) / 1.1
        turning = (9.8 * sine - cosine * push) / (0.5 * (4 / 3 - 0.1 * cosine**2 / 1.1))
        moving = push - 0.05 * turning * cosine / 1.1
        self.state = self.state + 0.02 * np.array([speed, moving, turn, turning])
        self.num_steps += 1
        is_over = abs(self.state[0]) > 2.4 or abs(self.state[2]) > 0.21 or self.num_steps == 200
        return self.state.astype(np.float32), 1.0, bool(is_over)


class Replay:
    """Acts with a falling epsilon, and gives batches of what happened. `forgets` plants a fault: a state not saved."""

    def __init__(self, batch_size: int, capacity: int, decay_steps: int, forgets: str | None = None) -> None:
        self.batch_size, self.capacity, self.decay_steps, self.forgets = batch_size, capacity, decay_steps, forgets
        self.model: Any = None  # the experiment gives it
        self.environment = CartPole()
        self.environment.reset()
        self.buffer: list[list[float]] = []  # observation, action, reward, whether it was the last, next observation
        self.num_acted = 0

    def __iter__(self) -> Iterator[Batch]:
        while True:
            self.act()
            while len(self.buffer) < self.batch_size:
                self.act()
            rows = torch.tensor(random.choices(self.buffer, k=self.batch_size))
            yield rows[:, :4], rows[:, 4].long(), rows[:, 5], rows[:, 6], rows[:, 7:]

    @torch.no_grad()
    def act(self) -> None:
        before = torch.from_numpy(self.environment.state.astype(np.float32))
        action = int(self.model(before[None]).argmax())
        if np.random.rand() < max(0.05, 1 - self.num_acted / self.decay_steps):
            action = random.randrange(2)
        after, reward, is_over = self.environment.step(action)
        self.buffer.append([*before.tolist(), action, reward, float(is_over), *after.tolist()])
        del self.buffer[: -self.capacity]
        self.num_acted += 1
        if is_over:
            self.environment.reset()

    def state_dict(self) -> dict[str, Any]:
        state = {
            "buffer": self.buffer,
            "cart": self.environment.state.tolist(),
            "num_steps": self.environment.num_steps,
            "num_acted": self.num_acted,
        }
        return {name: value for name, value in state.items() if name != self.forgets}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.buffer = state.get("buffer", [])
        self.environment.state = np.array(state.get("cart", [0.0] * 4))
        self.environment.num_steps = state.get("num_steps", 0)
        self.num_acted = state.get("num_acted", 0)


class Policy(nn.Module):
    """Values (B, 2) of both actions, and the target network."""

    def __init__(self) -> None:
        super().__init__()
        self.online = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2))
        self.target = copy.deepcopy(self.online).requires_grad_(False)

    def forward(self, observations: Tensor) -> Tensor:
        values: Tensor = self.online(observations)
        return values


class Bellman:
    """Mnih et al., "Human-level control through deep reinforcement learning", 2015."""

    def __call__(self, model: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        before, actions, rewards, is_over, after = batch
        with torch.no_grad():
            wanted = rewards + 0.99 * (1 - is_over) * model.target(after).amax(1)
        values = model(before).gather(1, actions[:, None])[:, 0]
        return F.smooth_l1_loss(values, wanted), {"value": values.mean()}


class Returns:
    """The mean length of episodes in which the best action is taken."""

    @torch.no_grad()
    def __call__(self, model: Any, loader: Any) -> dict[str, float]:
        assert loader is None
        lengths = []
        for _ in range(5):
            environment = CartPole()
            observation, is_over = environment.reset(), False
            while not is_over:
                action = int(model(torch.from_numpy(observation)[None]).argmax())
                observation, _, is_over = environment.step(action)
            lengths.append(environment.num_steps)
        return {"return": sum(lengths) / len(lengths)}
