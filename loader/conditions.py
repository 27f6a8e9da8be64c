"""Samples by a condition on their columns, such as ``height >= 256 and label in (3, 5)``.

The condition is parsed as Python, and only what is listed here is computed: comparisons, `and`, `or`, `not`, `in`, and
arithmetic, of columns and constants. There are no calls, attributes or indices, so a condition from a stranger can do
nothing but choose.
"""

from __future__ import annotations

import ast
import difflib
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from budgetloader.errors import ArgumentError, ScheduleError

_MOST_LETTERS, _MOST_DEPTH = 10_000, 50
_ARITHMETIC: dict[type, Callable] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_COMPARISONS: dict[type, Callable] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_OWN = ("label", "class_name", "height", "width", "sample")


def where(dataset: Any, samples: Any) -> Any:
    """What `samples=` means: a condition as a mask, bool [D]; anything else as it is.

    Args:
        dataset: an open data set. Its columns are `label`, `class_name`, `height`, `width` (pixels), `sample` (the
            number), and the numbers and texts among its file's fields.
        samples: what a loader was given.

    Raises:
        ArgumentError: a condition that is none, or of columns that there are not.
        ScheduleError: no sample meets it.
    """
    if not isinstance(samples, str):
        return samples
    if len(samples) > _MOST_LETTERS:
        raise ArgumentError(f"samples={samples[:60]!r}… has {len(samples):,} letters; give {_MOST_LETTERS:,} at most")
    found = _Condition(samples, dataset).mask()
    if not found.any():
        raise ScheduleError(f"samples={samples!r} is met by none of the {len(found):,} samples; give a wider condition")
    return found


class _Names:
    """The column of class names, as the numbers that stand for them."""

    def __init__(self, labels: np.ndarray, classes: tuple[str, ...], refuse: Callable[[str], ArgumentError]) -> None:
        self._labels, self._classes, self._refuse = labels, classes, refuse

    def among(self, names: list[Any]) -> np.ndarray:
        for name in names:
            if name not in self._classes:
                close = difflib.get_close_matches(str(name), self._classes, n=1)
                raise self._refuse(f"there is no class {name!r}" + (f"; did you mean {close[0]!r}?" if close else ""))
        return np.isin(self._labels, [self._classes.index(name) for name in names])


class _Condition:
    """A condition that is being computed."""

    def __init__(self, text: str, dataset: Any) -> None:
        self._text, self._dataset = text, dataset
        try:
            self._tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise self._refuse(f"it is no condition ({error.args[0] if error.args else error})") from None

    def mask(self) -> np.ndarray:
        """The samples that meet it: bool [D]."""
        found = self._value(self._tree, 0)
        if not self._is_answer(found):
            raise self._refuse("it does not say yes or no of each sample; compare a column with something")
        return found

    def _refuse(self, why: str) -> ArgumentError:
        return ArgumentError(f"samples={self._text!r}: {why}; give such as 'height >= 256 and label in (3, 5)'")

    def _value(self, node: ast.expr, depth: int) -> Any:
        """What a part of the condition is: an array [D], a constant, or a list of constants."""
        if depth > _MOST_DEPTH:
            raise self._refuse(f"it is nested more than {_MOST_DEPTH} deep")
        if isinstance(node, ast.Constant) and isinstance(node.value, (bool, int, float, str)):
            return self._constant(node.value)
        if isinstance(node, ast.Name):
            return self._column(node.id)
        if isinstance(node, (ast.Tuple, ast.List, ast.Set)):
            items = [self._value(item, depth + 1) for item in node.elts]
            if not items or any(isinstance(item, (np.ndarray, list, _Names)) for item in items):
                raise self._refuse("a list has constants, one at least")
            return items
        if isinstance(node, ast.BoolOp):
            parts = [self._truth(part, depth) for part in node.values]
            return (np.logical_and if isinstance(node.op, ast.And) else np.logical_or).reduce(parts)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return ~self._truth(node.operand, depth)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -self._number(node.operand, depth)
        if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
            return self._computed(node, depth)
        if isinstance(node, ast.Compare):
            return self._compared(node, depth)
        raise self._refuse(f"{ast.unparse(node)[:40]!r} is not among what a condition may have")

    def _constant(self, value: Any) -> Any:
        if isinstance(value, int) and abs(value) >= 1 << 62:
            raise self._refuse(f"{str(value)[:20]}… is too large")
        return value

    def _column(self, name: str) -> Any:
        data = self._dataset
        own = {"label": "labels", "height": "heights", "width": "widths"}
        if name in own:
            return getattr(data, own[name])
        if name == "sample":
            return np.arange(len(data))
        if name == "class_name":
            if not getattr(data, "classes", ()):
                raise self._refuse("the set does not name its classes; ask for label")
            return _Names(data.labels, tuple(data.classes), self._refuse)
        fields = [field for field in getattr(data, "fields", ()) if hasattr(data, "column")]
        if name not in fields or name == getattr(data, "image_field", None):
            known = [*_OWN, *(field for field in fields if field not in _OWN)]
            raise self._refuse(f"there is no column {name!r} (there are {', '.join(known)})")
        values = np.asarray(data.column(name)[:])
        if values.shape != (len(data),) or values.dtype.kind not in "biufU":
            raise self._refuse(
                f"column {name!r} is of {values.dtype} {list(values.shape[1:])}, not of numbers or texts"
            )
        return values

    def _truth(self, node: ast.expr, depth: int) -> np.ndarray:
        value = self._value(node, depth + 1)
        if not self._is_answer(value):
            raise self._refuse(f"{ast.unparse(node)[:40]!r} is not yes or no of each sample; compare a column with it")
        return value

    def _is_answer(self, value: Any) -> bool:
        return isinstance(value, np.ndarray) and value.dtype == bool and value.shape == (len(self._dataset),)

    def _number(self, node: ast.expr, depth: int) -> Any:
        value = self._value(node, depth + 1)
        if isinstance(value, (bool, str, list, _Names)) or (
            isinstance(value, np.ndarray) and value.dtype.kind not in "iuf"
        ):
            raise self._refuse(f"{ast.unparse(node)[:40]!r} is no number to compute with")
        return value

    def _computed(self, node: ast.BinOp, depth: int) -> Any:
        left, right = self._number(node.left, depth), self._number(node.right, depth)
        try:
            with np.errstate(all="ignore"):  # what is not finite meets no comparison
                found = _ARITHMETIC[type(node.op)](left, right)
        except (ZeroDivisionError, OverflowError):
            raise self._refuse(f"{ast.unparse(node)[:40]!r} is no number") from None
        return found if isinstance(found, np.ndarray) else self._constant(found)

    def _compared(self, node: ast.Compare, depth: int) -> Any:
        sides = [self._value(side, depth + 1) for side in (node.left, *node.comparators)]
        found: Any = None
        for left, operation, right in zip(sides, node.ops, sides[1:], strict=False):
            one = self._comparison(left, operation, right)
            found = one if found is None else found & one
        return found

    def _comparison(self, left: Any, operation: ast.cmpop, right: Any) -> np.ndarray:
        if isinstance(operation, (ast.In, ast.NotIn)):
            if not isinstance(right, list):
                raise self._refuse("behind 'in' there is a list of constants, such as (3, 5)")
            inside = left.among(right) if isinstance(left, _Names) else self._isin(left, right)
            return ~inside if isinstance(operation, ast.NotIn) else inside
        if isinstance(right, _Names) and not isinstance(left, _Names):
            left, right = right, left
        if isinstance(left, _Names):
            if not isinstance(right, str) or not isinstance(operation, (ast.Eq, ast.NotEq)):
                raise self._refuse("class_name is compared by ==, != and in, with names")
            same = left.among([right])
            return ~same if isinstance(operation, ast.NotEq) else same
        if type(operation) not in _COMPARISONS or isinstance(left, list) or isinstance(right, list):
            raise self._refuse("it compares what cannot be compared")
        self._check_alike(left, right)
        return np.asarray(_COMPARISONS[type(operation)](left, right))

    def _isin(self, left: Any, items: list[Any]) -> np.ndarray:
        for item in items:
            self._check_alike(left, item)
        return np.isin(left, items)

    def _check_alike(self, left: Any, right: Any) -> None:
        """Numbers with numbers, and texts with texts."""
        texts = [
            isinstance(side, str) or getattr(getattr(side, "dtype", None), "kind", "") == "U" for side in (left, right)
        ]
        if texts[0] != texts[1]:
            raise self._refuse("it compares a text with a number")
