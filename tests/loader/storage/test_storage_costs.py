"""What a training will cost, told before it begins."""

import numpy as np
import pytest

from budgetloader import ArgumentError, BudgetLoader, Schedule, cli
from budgetloader.block_order import order_of
from budgetloader.storage.cost import Cost
from budgetloader.storage.costs import Prices, cached_share, ways, window_share
from budgetloader.storage.dataset import RemoteDataset

COST = Cost(latency_seconds=0.05, bytes_per_second=5e7, connections=64)
R1 = Schedule.flat("0.618", epochs=5)


@pytest.fixture
def far(web):
    return RemoteDataset(f"{web.url}/train.beton")


def test_the_bytes_and_requests_are_those_that_the_training_fetches(web, far):
    found = {way.name: way for way in ways(far, R1, batch_size=7, cost=COST, prices=Prices())}
    far = RemoteDataset(far.url)  # which holds nothing of what was examined
    opened = far.traffic
    with BudgetLoader(far, schedule=R1, batch_size=7, image_size=16) as batches:
        batches.dataset.ahead_bytes = 1  # or samples of two epochs at a time are fetched once
        for _ in batches.epochs():
            list(batches)
    done = far.traffic
    told = found["samples, no cache"]
    assert done.fetched_bytes - opened.fetched_bytes == pytest.approx(told.bytes, rel=0.15)
    assert done.misses - opened.misses == pytest.approx(told.requests, rel=0.15)


@pytest.mark.parametrize("ratio", ["1", "0.618"])
def test_the_requests_of_blocks_are_those_that_the_training_makes(web, far, ratio):
    schedule = Schedule.flat(ratio, epochs=4)
    blocks = order_of(schedule.budget(70, batch_size=7), seed=0, sampling="blocks:5/20")
    found = {way.name: way for way in ways(far, schedule, batch_size=7, cost=COST, prices=Prices(), blocks=blocks)}
    told = found["blocks:5/20, no cache"]
    far = RemoteDataset(far.url)
    opened = far.traffic
    with BudgetLoader(far, schedule=schedule, batch_size=7, image_size=16, sampling="blocks:5/20") as batches:
        batches.dataset.ahead_bytes = 1
        for _ in batches.epochs():
            list(batches)
    done = far.traffic
    assert done.requests - opened.requests == pytest.approx(told.requests, rel=0.35)
    assert told.requests < 0.6 * found["samples, no cache"].requests and told.bytes == found["samples, no cache"].bytes


def test_a_cache_of_the_whole_set_fetches_most_of_it_in_three_epochs():
    """What the issue measured: 62, 94 and 99 % after 1, 3 and 5 epochs."""
    for epochs, share in ((1, 0.618), (3, 0.944), (5, 0.992)):
        schedule = Schedule.flat("0.618", epochs=epochs)
        assert cached_share(schedule, 1.0) * 0.618 * epochs == pytest.approx(share, abs=0.01)


def test_a_larger_cache_fetches_less_and_none_fetches_all():
    shares = [cached_share(R1, room) for room in (0.0005, 0.25, 0.5, 1.0)]
    assert shares == sorted(shares, reverse=True) and shares[0] > 0.99 and 0.3 < shares[2] < 0.75


def test_windows_are_weighed_by_the_files_own_headers(far):
    share, requests = window_share(far)
    assert 0.6 < share < 0.85 and 1 < requests <= 2


def test_time_and_price_follow_from_the_store(far):
    prices = Prices(gigabyte=90.0, million_requests=400.0)
    for way in ways(far, R1, batch_size=7, cost=COST, prices=prices, cache_bytes=float(far.sizes.sum()) / 2):
        if "shards" in way.name:
            assert way.bytes == 5 * far.sizes.sum() and np.isnan(way.requests)
        else:
            assert way.price == pytest.approx(way.bytes / 1e9 * 90 + way.requests / 1e6 * 400)
            assert way.seconds >= way.requests * 0.05 / 64
    with pytest.raises(ArgumentError, match="-1"):
        Prices(gigabyte=-1)
    with pytest.raises(ArgumentError, match="cache_bytes"):
        ways(far, R1, batch_size=7, cost=COST, prices=prices, cache_bytes=0)


def test_the_command_takes_address_and_schedule_in_either_order(web, beton, capsys):
    url = f"{web.url}/train.beton"
    priced = ["--epochs", "5", "--batch-size", "7", "--cache-bytes", "3MB", "--price-gb", "0.09"]
    for arguments in ([url, "R1_0.618"], ["R1_0.618", url], ["R1_0.618", "--data", url]):
        assert cli.main(["plan", *arguments, *priced]) == 0
        shown = capsys.readouterr().out
        assert "latency" in shown and "windows" in shown and "whole shards" in shown
    assert cli.main(["plan", url, "R1_0.618", *priced, "--sampling", "blocks:5/20"]) == 0
    assert "blocks:5/20, no cache" in capsys.readouterr().out
    assert cli.main(["plan", str(beton), "R1_0.618", *priced[:4]]) == 0
    assert "the store" not in capsys.readouterr().out
    assert cli.main(["plan", url, "R1_0.618", "--data", url]) == 1
    assert "give one of them" in capsys.readouterr().err
