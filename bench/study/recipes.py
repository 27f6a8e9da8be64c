"""What a study trains and compares, as data. Nothing here computes; `arms` says what each arm's name means."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

Decay = Literal["step", "cosine", "linear"]
Plan = Literal["full", "flat", "short", "progressive", "paper", "infobatch"]
RATIOS = ("0.618", "0.3", "0.1")


@dataclass(frozen=True)
class Arm:
    """A way to spend a budget of samples.

    Args:
        kind: its name without the budget: "flat", "short-linear", …
        budget: whose samples it spends: a ratio of full training's, or a schedule of the dissertation ("R2", "R3").
        plan: how the budget is laid out over epochs; see `budgetloader.bench.study.arms`.
        sampling: of the loader.
        decay: of the learning rate; "" is the study's.
        primary: whether it is one of the arms of the primary contrasts.
    """

    kind: str
    budget: str
    plan: Plan
    sampling: Literal["independent", "cyclic", "static"] = "independent"
    decay: Decay | Literal[""] = ""
    primary: bool = False

    @property
    def name(self) -> str:
        return self.kind if self.plan == "full" else f"{self.kind}@{self.budget}"


def arms(*, ratios: tuple[str, ...], settings: tuple[str, ...], infobatch: bool = True) -> tuple[Arm, ...]:
    """The arms of a study: those of each ratio, those of each of the dissertation's settings, and full training."""
    found = [Arm("full", "1", "full")]
    for ratio in ratios:
        found += [
            Arm("flat", ratio, "flat", primary=True),
            Arm("short", ratio, "short", primary=True),
            Arm("short-linear", ratio, "short", decay="linear", primary=True),
            Arm("flat-linear", ratio, "flat", decay="linear"),
            Arm("cyclic", ratio, "flat", sampling="cyclic"),
            Arm("static", ratio, "flat", sampling="static"),
            Arm("progressive", ratio, "progressive"),
        ]
        found += [Arm("infobatch", ratio, "infobatch")] if infobatch else []
    for name in settings:
        found += [
            Arm("three-stage", name, "paper"),
            Arm("short", name, "short"),
            Arm("short-linear", name, "short", decay="linear"),
        ]
    return tuple(found)


@dataclass(frozen=True)
class Study:
    """A set, a network, an optimiser, and the arms and seeds to compare.

    Args:
        name: of the recipe and of its record.
        title: for people.
        network: a name of `budgetloader.bench.study.networks`.
        epochs: of full training.
        batch_size, image_size: of a batch; pixels.
        held_out: images of the training set that each seed keeps out of training. The learning rate is chosen on
            those of the pilot's seeds.
        learning_rate: of which each arm takes the best of `factors` times as much.
        momentum, nesterov, weight_decay: of SGD.
        decay: "step" (times `step_factor` at each of `milestones`, shares of the budget), "cosine" or "linear" (to 0).
        mean, std: for the normalisation.
        arms: what is compared.
        pilot_seeds: for the learning rates and the power calculation; not used again. (): there is no pilot.
        first_seed, least_seeds, most_seeds: of the main runs: as many as the power calculation asks for, within these.
        resident: whether the images fit into memory, decoded.
        workers: threads of the loader; None: one per core.
        printed: published top-1, percent: arm's name → figure, to show beside the measured one.
    """

    name: str
    title: str
    network: str
    epochs: int
    batch_size: int
    image_size: int
    held_out: int
    learning_rate: float
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    decay: Decay = "step"
    milestones: tuple[float, ...] = (0.5, 0.75)
    step_factor: float = 0.1
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    factors: tuple[float, ...] = (1.0, 0.5, 2.0)
    arms: tuple[Arm, ...] = ()
    pilot_seeds: tuple[int, ...] = (9001, 9002)
    first_seed: int = 0
    least_seeds: int = 10
    most_seeds: int = 20
    printed: dict[str, float] = field(default_factory=dict)
    resident: bool = True
    workers: int | None = 1

    def arm(self, name: str) -> Arm:
        """The arm of that name.

        Raises:
            ValueError: there is none.
        """
        for arm in self.arms:
            if arm.name == name:
                return arm
        raise ValueError(f"arm {name!r} is not known; {self.name} has {', '.join(a.name for a in self.arms)}")


# Batches of 125 divide the 55,000 images: 440 a full epoch. So every arm of a budget takes exactly as many samples.
FASHION = Study(
    name="fashion",
    title="Fashion-MNIST, ResNet-8",
    network="resnet8",
    epochs=16,
    batch_size=125,
    image_size=28,
    held_out=5_000,
    learning_rate=0.1,
    mean=(0.286, 0.286, 0.286),
    std=(0.353, 0.353, 0.353),
    arms=arms(ratios=RATIOS, settings=("R3", "R2")),
)

# The same network and budgets on letters and digits, in fonts that training does not have; see `glyphs`.
GLYPHS = replace(
    FASHION, name="glyphs", title="Rendered letters and digits, ResNet-8", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)
)

# P. Okanovic et al., "Repeated Random Sampling for Minimizing the Time-to-Accuracy of Learning", ICLR 2024. The
# protocol, and top-1 read off the data of its plots. RS2 without replacement is our "cyclic".
_RS2 = Study(
    name="rs2",
    title="",
    network="resnet18-small",
    epochs=200,
    batch_size=128,
    image_size=32,
    held_out=0,
    learning_rate=0.1,
    nesterov=True,
    decay="cosine",
    factors=(1.0,),
    arms=arms(ratios=("0.3", "0.1"), settings=()),
    pilot_seeds=(),
    least_seeds=3,
    most_seeds=3,
)
RS2_CIFAR10 = replace(
    _RS2,
    name="rs2-cifar10",
    title="CIFAR-10, ResNet-18, RS2's protocol",
    printed={"full": 95.5, "cyclic@0.3": 94.3, "cyclic@0.1": 91.7, "static@0.3": 91.0, "static@0.1": 78.4},
)
RS2_CIFAR100 = replace(_RS2, name="rs2-cifar100", title="CIFAR-100, ResNet-18, RS2's protocol")
RS2_IMAGENET = replace(
    _RS2,
    name="rs2-imagenet",
    title="ImageNet, ResNet-18, RS2's protocol",
    network="resnet18",
    batch_size=256,
    image_size=224,
    resident=False,
    workers=None,
    printed={"full": 69.5, "cyclic@0.3": 68.2, "cyclic@0.1": 66.0, "static@0.3": 64.1, "static@0.1": 52.1},
)
RS2 = {10: RS2_CIFAR10, 100: RS2_CIFAR100, 1000: RS2_IMAGENET}  # classes → study

STUDIES = {study.name: study for study in (FASHION, GLYPHS, *RS2.values())}
