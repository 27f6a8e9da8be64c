"""`budgetloader join`."""

from __future__ import annotations

import argparse

from budgetloader.commands.arguments import Add, bytes_of

HELP = "make this machine a part of a service's cluster, so that trainers here can connect"


def add_arguments(add: Add) -> None:
    add("address", help="of the service's cluster, host:port; `serve` prints it")
    add("--name", required=True, help="of the service")
    add("--token-file", required=True, help="a file that holds the service's token; `serve` says where it is")
    add("--host", required=True, help="this machine's address, as the service's machine sees it")
    add("--workers", type=int, default=0, help="decoding processes to add; they need the dataset at the same path")
    add("--memory", type=bytes_of, default="1GB", help="shared memory here, for images on their way")


def run(options: argparse.Namespace) -> int:
    from budgetloader.service import commands

    return commands.join(options)
