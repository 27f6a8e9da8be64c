"""Which images of a conversion are stored as pixels: no decoding when they are read, and several times the bytes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from budgetloader.errors import DatasetError

SMART_RATIO = Fraction(4)
_FORMS = "a share from 0 to 1, 'smart', or 'smart:RATIO'"


@dataclass(frozen=True)
class RawChoice:
    """Says of each image whether it is stored as pixels.

    Args:
        share: of the images, 0 … 1, spread evenly over the source's order; so each class has its share.
        ratio: in place of a share: images whose pixels take at most so many times the bytes of their JPEG. Those are
            the ones that take longest to decode for the bytes that they save.
    """

    share: Fraction = Fraction(0)
    ratio: Fraction | None = None

    @classmethod
    def parse(cls, value: Any) -> RawChoice:
        """From a share (a number, or a text), "smart" (a ratio of 4) or "smart:RATIO".

        Raises:
            DatasetError: it is none of these.
        """
        text = str(value).strip()
        kind, colon, ratio = text.partition(":")
        try:
            if kind == "smart":
                chosen = cls(ratio=Fraction(ratio) if colon else SMART_RATIO)
                valid = chosen.ratio is not None and 1 <= chosen.ratio <= 1000
            else:
                chosen = cls(share=Fraction(text))
                valid = 0 <= chosen.share <= 1 and not isinstance(value, bool)
        except (ValueError, ZeroDivisionError, OverflowError):
            valid = False
        if not valid:
            raise DatasetError(f"raw {value!r} is not known; give {_FORMS}")
        return chosen

    @property
    def by_size(self) -> bool:
        """Whether the JPEG has to be known."""
        return self.ratio is not None

    def __bool__(self) -> bool:
        """Whether any image may be chosen."""
        return self.by_size or self.share > 0

    def picks(self, number: int) -> bool:
        """Whether the share takes image `number` of the source."""
        return math.floor((number + 1) * self.share) > math.floor(number * self.share)

    def pays(self, *, pixel_bytes: int, jpeg_bytes: int) -> bool:
        """Whether an image's pixels are few enough beside its JPEG."""
        return self.ratio is not None and pixel_bytes <= self.ratio * jpeg_bytes
