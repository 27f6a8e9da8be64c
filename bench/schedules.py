"""A bench that trains one network by several schedules: its command line, its run and its report."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from budgetloader.bench import job
from budgetloader.bench.console import guarded
from budgetloader.bench.options import Options, options_of, parser
from budgetloader.bench.settings import Cell, cells
from budgetloader.errors import ScheduleError
from budgetloader.prepare import Data


@dataclass(frozen=True)
class ScheduleBench:
    """One such bench.

    Args:
        module, doc: its module's name and docstring.
        presets, preset, settings: see `budgetloader.bench.options.parser`.
        add: adds the bench's own options to the parser.
        without_data: preset → what to say where it is asked for without --data.
        builtin: what to train on without --data; see `budgetloader.prepare.prepare`.
        recipe: the name of one of `budgetloader.models.RECIPES`.
        network: (options, classes) → a network.
        label: options → the network's name, for titles.
        printed: data set → the dissertation's table of it, by setting.
        figures: data set → the numbers of the dissertation's figures of it, by accuracy (top1, top5).
    """

    module: str
    doc: str
    presets: Mapping[str, Mapping[str, Any]]
    preset: str
    settings: Sequence[str]
    add: Callable[[argparse.ArgumentParser], object]
    without_data: Mapping[str, str]
    builtin: str
    recipe: str
    network: Callable[[Options, int], Any]
    label: Callable[[Options], str]
    printed: Mapping[str, Any]
    figures: Callable[[str | None], dict[str, str]]

    def parse(self, arguments: Sequence[str] | None = None) -> tuple[Options, str]:
        """The options of a command line, and "fresh" or "resume"."""
        command_line = parser(self.module, self.doc, presets=self.presets, preset=self.preset, settings=self.settings)
        self.add(command_line)
        options, how = options_of(vars(command_line.parse_args(arguments)), presets=self.presets)
        if options.preset in self.without_data and not options.data:
            raise ScheduleError(self.without_data[options.preset])
        return options, how

    def main(self, arguments: Sequence[str] | None = None) -> int:
        """Run the bench; the exit status is 0, 1 for bad input, 130 where it was interrupted."""
        return guarded(functools.partial(self._main, list(sys.argv[1:] if arguments is None else arguments)))

    def _main(self, arguments: Sequence[str], console: Console) -> int:
        options, how = self.parse(arguments)
        from budgetloader.bench.record import command
        from budgetloader.bench.report import report
        from budgetloader.models import RECIPES

        record, interrupted = job.run(
            options,
            console,
            how=how,
            recipe=RECIPES[self.recipe],
            cells_of=functools.partial(self._cells, options),
            builtin=self.builtin,
        )
        report(
            record,
            Path(options.out),
            console,
            network=self.label(options),
            command=command(self.module, arguments),
            printed=dict(self.printed),
            figures=self.figures(record["data_set"]),
        )
        return job.finish(options, console, interrupted=interrupted)

    def _cells(self, options: Options, data: Data) -> list[Cell]:
        """The settings, each with the network."""
        network = functools.partial(self.network, options)
        shape = {"epochs": options.epochs, "samples": len(data.train), "batch_size": options.batch_size}
        return cells(options.settings, network=network, **shape)
