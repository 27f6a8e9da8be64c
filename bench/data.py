"""`budgetloader.prepare`, under the name that it had in version 0.1."""

from budgetloader.prepare import Data, prepare

__all__ = ["Data", "prepare"]
