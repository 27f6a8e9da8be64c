"""The dissertation's networks, recipes and trainer. Nothing here knows the loader."""

from models.metrics import Accuracy, TopK
from models.mobilenet import MobileNetV2, mobilenet_v2
from models.recipes import IMAGENET, Recipe
from models.train import EpochRecord, Trainer, TrainingError

__all__ = [
    "IMAGENET",
    "Accuracy",
    "EpochRecord",
    "MobileNetV2",
    "Recipe",
    "TopK",
    "Trainer",
    "TrainingError",
    "mobilenet_v2",
]
