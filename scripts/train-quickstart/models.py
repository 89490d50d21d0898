"""The models that can be trained: shape, schedule, and what their files say about them."""

import math
from dataclasses import dataclass

from model import Config


@dataclass(frozen=True)
class Schedule:
    """Warm-up, a cosine planned to `horizon`, and a straight cool-down to 0 where the run stops.

    The cool-down parts how long a run is from how its start looks: any checkpoint before it
    begins also starts a longer run.
    """

    steps: int = 550
    cooldown: int = 200
    warmup: int = 60
    horizon: int = 1200
    batch: int = 8
    peak_lr: float = 3e-3
    final_lr: float = 1e-4
    weight_decay: float = 0.1
    clip: float = 1.0
    # Factor of the loss that keeps experts from dying. Small, so that they are used unevenly.
    balance: float = 0.0
    seed: int = 1611
    save_every: int = 10

    def lr(self, step: int) -> float:
        if step < self.warmup:
            return self.peak_lr * (step + 1) / self.warmup
        done = (step - self.warmup) / (self.horizon - self.warmup)
        cosine = self.final_lr + (self.peak_lr - self.final_lr) * (1 + math.cos(math.pi * done)) / 2
        return cosine * min(1.0, (self.steps - step) / self.cooldown)


@dataclass(frozen=True)
class Model:
    config: Config
    schedule: Schedule
    size: str
    # True if it starts from the weights of the bundled model (grow.py).
    grows: bool = True


MODELS = {
    # The bundled one.
    "quickstart": Model(Config(), Schedule(), "4.2M-parameter llama", grows=False),
    "moe": Model(
        Config(n_ff=256, n_expert=32, n_expert_used=2),
        Schedule(steps=120, cooldown=50, warmup=15, batch=4, peak_lr=1.5e-3, balance=0.003, save_every=5),
        "27M-parameter llama with 32 experts per layer, two of them per token,",
    ),
    "dense": Model(
        Config(n_embd=512, n_ff=1024, n_head=8, n_head_kv=4),
        Schedule(steps=70, cooldown=35, warmup=20, batch=4, peak_lr=1.5e-3, save_every=5),
        "11.5M-parameter llama",
    ),
}
