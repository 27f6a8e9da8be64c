"""`python -m budgetloader.bench.train …` is `budgetloader train …`, under the name that it had in version 0.1."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from budgetloader import cli


def main(arguments: Sequence[str] | None = None) -> int:
    """Train; the exit status is 0, 1 for bad input, 130 where it was stopped."""
    return cli.main(["train", *(sys.argv[1:] if arguments is None else arguments)])


if __name__ == "__main__":
    sys.exit(main())
