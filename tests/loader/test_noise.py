import pytest

from budgetloader import noise
from budgetloader.noise import Noise


@pytest.mark.parametrize(
    ("seen", "word"),
    [
        (Noise(0.02, 0.01), "quiet"),
        (Noise(0.30, 0.01), "noisy"),
        (Noise(0.02, 0.10), "noisy"),
        (Noise(0.02, 0.50), "busy"),
        (Noise(0.02, None), "quiet"),  # a platform that does not say what others take
    ],
)
def test_a_machine_is_quiet_noisy_or_busy(seen, word):
    assert seen.word == word and str(seen).startswith(f"{word}: the same work")


def test_what_others_take_is_seen(monkeypatch):
    """A core of two that another process keeps busy."""
    readings = iter([(100.0, 200.0, 10.0), (103.0, 204.0, 11.0)])
    monkeypatch.setattr(noise, "_cpu_seconds", lambda: next(readings))
    assert noise.measure(seconds=0).others == pytest.approx((3 - 1) / 4)


def test_this_machine_is_measured():
    seen = noise.measure(seconds=0.05)
    assert seen.variation > -1 and (seen.others is None or 0 <= seen.others <= 1)


def test_where_the_platform_does_not_say_nothing_is_said_of_others(monkeypatch):
    monkeypatch.setattr(noise, "_cpu_seconds", lambda: None)
    seen = noise.measure(seconds=0)
    assert seen.others is None and "other processes" not in str(seen)
