"""The parts of `budgetloader.bench.evidence`: recipes as data, arms, runs, the record, statistics, pages."""
