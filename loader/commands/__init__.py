"""The commands of `budgetloader`, a file each.

A command's file has `HELP`, one line; `add_arguments(add)`, which describes its arguments; and `run(options)`, which
does its work and returns the exit status. What takes time to import is imported in `run`, so that
`budgetloader --help` answers at once. `budgetloader.cli` lists the commands in the order of `NAMES`.
"""

NAMES = (
    "generate",
    "convert",
    "gather",
    "inspect",
    "verify",
    "throughput",
    "doctor",
    "plan",
    "train",
    "serve",
    "join",
    "top",
)
