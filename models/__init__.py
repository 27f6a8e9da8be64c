"""The dissertation's networks, recipes and trainer. Nothing here knows the loader."""

from models.checkpoint import CheckpointError
from models.compress import compress
from models.count import Counts, count
from models.crnet import CRnet, crnet_cb, crnet_cib, ghostnet_style, resnet50_style
from models.fit import History, fit
from models.metrics import Accuracy, TopK
from models.mobilenet import MobileNetV2, mobilenet_v2
from models.recipes import CIFAR, CRNET, IMAGENET, RECIPES, Recipe
from models.resnet import ResNet, resnet, resnet20, resnet32, resnet56
from models.train import EpochRecord, EpochUnderWay, Trainer, TrainingError

__all__ = [
    "CIFAR",
    "CRNET",
    "IMAGENET",
    "RECIPES",
    "Accuracy",
    "CRnet",
    "CheckpointError",
    "Counts",
    "EpochRecord",
    "EpochUnderWay",
    "History",
    "MobileNetV2",
    "Recipe",
    "ResNet",
    "TopK",
    "Trainer",
    "TrainingError",
    "compress",
    "count",
    "crnet_cb",
    "crnet_cib",
    "fit",
    "ghostnet_style",
    "mobilenet_v2",
    "resnet",
    "resnet20",
    "resnet32",
    "resnet50_style",
    "resnet56",
]
