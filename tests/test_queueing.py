"""The simulation against what queueing theory knows exactly; and the page that is made from it and from the rates."""

from __future__ import annotations

import math
import random

import pytest

from bench import sizing
from bench.queueing import Deployment, Failures, measured, poisson, recorded, simulate


def erlang_wait(rate: float, service: float, workers: int) -> float:
    """The mean wait in a queue M/M/c (Erlang's formula C)."""
    load = rate * service
    free = sum(load**k / math.factorial(k) for k in range(workers))
    busy = load**workers / math.factorial(workers) * workers / (workers - load)
    return busy / (free + busy) * service / (workers - load)


@pytest.mark.parametrize("workers", [1, 2, 8])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_exponential_times_wait_as_erlang_says(workers: int, share: float) -> None:
    rate = share * workers / 0.1
    visits = simulate(Deployment(workers, lambda rng: rng.expovariate(10)), poisson(rate, 40_000), seed=workers)
    waited = sum(visit.waited for visit in visits) / len(visits)
    assert waited == pytest.approx(erlang_wait(rate, 0.1, workers), rel=0.25, abs=1e-4)
    assert sum(visit.stayed - visit.waited for visit in visits) / len(visits) == pytest.approx(0.1, rel=0.03)


def test_constant_times_wait_half_as_long() -> None:
    visits = simulate(Deployment(1, lambda _: 0.1), poisson(6, 40_000))
    assert sum(visit.waited for visit in visits) / len(visits) == pytest.approx(erlang_wait(6, 0.1, 1) / 2, rel=0.1)


def test_measured_times_are_drawn() -> None:
    assert {measured([1.0, 3.0])(random.Random(seed)) for seed in range(9)} == {1.0, 3.0}


def test_recorded_times_are_given_in_their_order() -> None:
    visits = simulate(Deployment(2, recorded([5, 1, 2])), [1, 0, 0])
    assert sorted((visit.waited, visit.stayed) for visit in visits) == [(0, 1), (0, 5), (1, 3)]


def test_crashes_cost_time_and_no_image() -> None:
    calm = Deployment(1, lambda _: 0.1)
    crashing = Deployment(1, lambda _: 0.1, crashes=Failures(every=1, lasts=0.5))
    visits = [simulate(one, poisson(2, 20_000)) for one in (calm, crashing)]
    assert [len(one) for one in visits] == [20_000, 20_000]
    waited = [sum(visit.waited for visit in one) for one in visits]
    assert waited[1] > 2 * waited[0]


def test_what_an_outage_stops_is_done_afterwards() -> None:
    outages = Deployment(1, lambda _: 0.1, outages=Failures(every=3600, lasts=600))
    visits = simulate(outages, poisson(1, 40_000))
    assert len(visits) == 40_000
    assert 300 < max(visit.waited for visit in visits) < 10_000
    assert sorted(visit.waited for visit in visits)[20_000] < 0.1


def test_the_page_follows_from_the_rates() -> None:
    text, results = sizing.PAGE.read_text(), sizing.RESULTS.read_text()
    assert set(sizing.rates(results)["local engine"]) == set(sizing.PARTS)
    assert sizing.page(text, results) == text, "python -m bench.sizing page writes it"


def test_rates_are_read_as_they_were_written() -> None:
    row = sizing._row("MLServer over gRPC", (71.4, 8, 33, 80))
    assert row == "| MLServer over gRPC | 71 | 8 | 33 | 80 | 192 |"
    assert list(sizing.rates(f"\n{row}\n")["MLServer over gRPC"].values()) == [71, 8, 33, 80]
    assert sizing.rates("not measured: MLServer") == {}
