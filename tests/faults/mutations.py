"""Valid files, spoilt: the same seed spoils them in the same way."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import cycle

from demo.phantoms import TRANSFER_SYNTAXES, to_bytes
from tests.faults.images import image

SIDE = 64
PREAMBLE = 132

Spoil = Callable[[bytearray, random.Random], bytearray]


def flip(data: bytearray, chance: random.Random) -> bytearray:
    """One to eight bits, anywhere, more of them in the header, which is the smaller part."""
    for _ in range(chance.randint(1, 8)):
        end = chance.choice([min(2500, len(data)), len(data)])
        data[chance.randrange(PREAMBLE, end)] ^= 1 << chance.randrange(8)
    return data


def truncate(data: bytearray, chance: random.Random) -> bytearray:
    """At the end, and seldom in the header."""
    return data[: chance.randrange(PREAMBLE if chance.random() < 0.2 else 2000, len(data))]


def swap(data: bytearray, chance: random.Random) -> bytearray:
    """Two stretches of the header change places: tags, lengths, values."""
    length = chance.choice([2, 4, 8, 16])
    first, second = sorted(chance.sample(range(PREAMBLE + 200, 2500, length), 2))
    one, other = data[first : first + length], data[second : second + length]
    data[first : first + length], data[second : second + length] = other, one
    return data


def overwrite(data: bytearray, chance: random.Random) -> bytearray:
    """A stretch of the same byte: zeros, all bits, or a letter."""
    at, length = chance.randrange(PREAMBLE + 200, len(data)), chance.choice([1, 2, 4, 32])
    data[at : at + length] = bytes([chance.choice([0, 0xFF, 0x7F, 0x41])]) * length
    return data


def insert(data: bytearray, chance: random.Random) -> bytearray:
    """Bytes that do not belong there."""
    at = chance.randrange(PREAMBLE + 200, len(data))
    data[at:at] = chance.randbytes(chance.randint(1, 16))
    return data


SPOILS: tuple[Spoil, ...] = (flip, truncate, swap, overwrite, insert)


def mutations(count: int, seed: int, first: int = 0) -> Iterator[bytes]:
    """So many spoilt files, in every transfer syntax, each of another patient as far as it can still be read."""
    chance = random.Random(seed)
    for number, syntax in zip(range(first, first + count), cycle(TRANSFER_SYNTAXES), strict=False):
        whole = image(number, rows=SIDE, columns=SIDE, bits_stored=8, transfer_syntax=syntax)
        yield bytes(chance.choice(SPOILS)(bytearray(to_bytes(whole)), chance))
