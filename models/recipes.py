"""The dissertation's training recipes, as data (sections 4.1.3, 4.2.3 and 4.2.5)."""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: SGD with momentum and weight decay.

    The learning rate follows the progress of full epochs, (epoch + step/steps) / epochs, whatever
    the number of steps of an epoch: "fewer batches, full epochs" (section 3.2).

    Args:
        epochs, batch_size, image_size: the dissertation's; benches may run others.
        learning_rate: at the start.
        momentum, weight_decay: of SGD, the latter on every parameter.
        decay: "cosine" (to 0), "step" (times `step_factor` at each of `milestones`), or "linear" (to 0;
            M. Li et al., "Budgeted training", ICLR 2020: the best simple one at a small budget).
        milestones: in progress, 0 … 1.
    """

    epochs: int
    batch_size: int
    image_size: int
    learning_rate: float
    momentum: float = 0.9
    weight_decay: float = 1e-4
    decay: Literal["cosine", "step", "linear"] = "cosine"
    milestones: tuple[float, ...] = ()
    step_factor: float = 0.1

    def learning_rate_at(self, progress: float) -> float:
        """The learning rate at `progress`, 0 … 1."""
        if not 0 <= progress <= 1:
            raise ValueError(f"progress {progress} is outside [0, 1]")
        if self.decay == "cosine":
            return self.learning_rate * (1 + math.cos(math.pi * progress)) / 2
        if self.decay == "linear":
            return self.learning_rate * (1 - progress)
        return self.learning_rate * self.step_factor ** bisect.bisect_right(self.milestones, progress)


# Section 4.2.5: MobileNetV2 on ImageNet, 150 epochs, lr 0.05, cosine, weight decay 4e-5.
IMAGENET = Recipe(epochs=150, batch_size=256, image_size=224, learning_rate=0.05, weight_decay=4e-5)

# Section 4.2.3: ResNet56 on CIFAR-10 and CIFAR-100, 120 epochs, lr 0.1, 0.01 from epoch 60, 0.001 from epoch 90.
CIFAR = Recipe(epochs=120, batch_size=128, image_size=32, learning_rate=0.1, decay="step", milestones=(0.5, 0.75))

# Sections 4.1.3 and 4.1.4: CRnet on CIFAR, 160 epochs, batches of 256 (and 64), lr 0.1, a tenth at 80 and 120.
CRNET = Recipe(epochs=160, batch_size=256, image_size=32, learning_rate=0.1, decay="step", milestones=(0.5, 0.75))

RECIPES = {"cifar": CIFAR, "imagenet": IMAGENET, "crnet": CRNET}
