"""How long images wait: a discrete-event simulation of arrivals, workers and what fails, in SimPy.

An image waits for a worker and holds it to the end. Its time there is drawn from a sample of measured ones. A worker
that dies takes its image with it, which is tried again as soon as there is another worker; while all inference servers
are out, or Orthanc is, nothing is begun, and what is under way is begun again afterwards.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import simpy

Steps = Generator[simpy.Event, Any, None]
Draw = Callable[[random.Random], float]
"""Seconds that one image takes a worker."""


@dataclass(frozen=True, slots=True)
class Failures:
    """Mean times in seconds between failures and until they are over, both exponential."""

    every: float
    lasts: float


@dataclass(frozen=True, slots=True)
class Deployment:
    """What does the work. `crashes` are one worker's, `outages` the whole's."""

    workers: int
    service: Draw
    crashes: Failures | None = None
    outages: Failures | None = None


@dataclass(frozen=True, slots=True)
class Visit:
    """One image, in seconds: from its arrival until a worker began with it, for the last time, and until its result."""

    waited: float
    stayed: float


def measured(times: Sequence[float]) -> Draw:
    """Times as they were measured, in any order."""
    return lambda rng: rng.choice(times)


def recorded(times: Iterable[float]) -> Draw:
    """Times as they were measured, in the order in which workers began."""
    following = iter(times)
    return lambda _: next(following)


def poisson(rate: float, images: int, seed: int = 0) -> Iterator[float]:
    """Times between arrivals that know nothing of each other, `rate` a second."""
    rng = random.Random(f"arrivals {seed}")
    return (rng.expovariate(rate) for _ in range(images))


def simulate(deployment: Deployment, pauses: Iterable[float], seed: int = 0) -> list[Visit]:
    """Visits in the order of their ends, for so many seconds before each arrival."""
    pauses = list(pauses)
    rng, world = random.Random(seed), simpy.Environment()
    workers = simpy.PriorityResource(world, deployment.workers)
    visits: list[Visit] = []
    up = [world.event().succeed()]  # the last one has happened unless there is an outage

    def arrive() -> Steps:
        for number, pause in enumerate(pauses):
            yield world.timeout(pause)
            world.process(visit(number))

    def visit(number: int) -> Steps:
        arrived = world.now
        while True:
            with workers.request(priority=number) as turn:
                yield turn
                while not up[-1].triggered:
                    yield up[-1]
                began, outages, takes = world.now, len(up), deployment.service(rng)
                crash = rng.expovariate(1 / deployment.crashes.every) if deployment.crashes else takes
                if crash < takes and deployment.crashes:
                    yield world.timeout(crash + rng.expovariate(1 / deployment.crashes.lasts))
                    continue
                yield world.timeout(takes)
                if len(up) > outages:
                    continue
                visits.append(Visit(began - arrived, world.now - arrived))
                return

    def fail(outages: Failures) -> Steps:
        while True:
            yield world.timeout(rng.expovariate(1 / outages.every))
            up.append(world.event())
            yield world.timeout(rng.expovariate(1 / outages.lasts))
            up[-1].succeed()

    world.process(arrive())
    if deployment.outages:
        world.process(fail(deployment.outages))
    while len(visits) < len(pauses):
        world.step()
    return visits


def summary(seconds: Sequence[float]) -> tuple[float, float]:
    """Mean and 95th percentile."""
    return statistics.mean(seconds), statistics.quantiles(seconds, n=20)[-1]
