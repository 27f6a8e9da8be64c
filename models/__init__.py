"""The dissertation's networks, recipes and trainer. Nothing here knows the loader."""

from budgetloader.models.checkpoint import CheckpointError
from budgetloader.models.compress import compress
from budgetloader.models.count import Counts, count
from budgetloader.models.crnet import CRnet, crnet_cb, crnet_cib, ghostnet_style, resnet50_style
from budgetloader.models.epoch import EpochRecord, EpochUnderWay
from budgetloader.models.fit import fit
from budgetloader.models.history import History
from budgetloader.models.metrics import Accuracy, TopK
from budgetloader.models.mobilenet import MobileNetV2, mobilenet_v2
from budgetloader.models.recipes import CIFAR, CRNET, IMAGENET, RECIPES, Recipe
from budgetloader.models.resnet import ResNet, resnet, resnet20, resnet32, resnet56
from budgetloader.models.train import Trainer, TrainingError
from budgetloader.models.training import Training

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
    "Training",
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
