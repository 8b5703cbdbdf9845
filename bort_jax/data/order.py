# SPDX-License-Identifier: Apache-2.0
"""Random bits and permutations as pure functions of integers: no state, no memory, no history."""

import math

import numpy as np
from jaxtyping import Int, UInt32, UInt64

ROUNDS = 6
GOLDEN, FIRST, SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
ALL = 2**64 - 1
# As arrays' types, made once: making a scalar takes numpy as long as adding 64 numbers.
STEP, ONE_FACTOR, OTHER_FACTOR = np.uint64(GOLDEN), np.uint64(FIRST), np.uint64(SECOND)
HALF, SHIFTS = np.uint64(32), (np.uint64(30), np.uint64(27), np.uint64(31))


def key_of(*parts: int) -> int:
    """One 64-bit key from integers, in their order."""
    key = 0
    for part in parts:
        x = (key + GOLDEN * (part + 1)) & ALL
        x = (x ^ (x >> 30)) * FIRST & ALL
        x = (x ^ (x >> 27)) * SECOND & ALL
        key = x ^ (x >> 31)
    return key


def keys_of(key: int, numbers: Int[np.ndarray, " b"]) -> UInt64[np.ndarray, " b"]:
    """A key of its own for each number, `key_of`'s for (…, number)."""
    return mix(np.uint64(key) + STEP * (numbers.astype(np.uint64) + np.uint64(1)))


def mix(x: UInt64[np.ndarray, "..."]) -> UInt64[np.ndarray, "..."]:
    """A bijection that leaves no pattern: the finaliser of splitmix64 (Steele et al., 2014)."""
    x = x ^ (x >> SHIFTS[0])
    x *= ONE_FACTOR
    x ^= x >> SHIFTS[1]
    x *= OTHER_FACTOR
    x ^= x >> SHIFTS[2]
    return x


def noise(keys: UInt64[np.ndarray, " b"], width: int) -> UInt32[np.ndarray, "b w"]:
    """`width` numbers for every key, in 32 bits: twice as many fit in a vector register."""
    low, high = keys.astype(np.uint32), (keys >> HALF).astype(np.uint32)
    x = low[:, None] + np.arange(1, width + 1, dtype=np.uint32) * np.uint32(0x9E3779B9)
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x7FEB352D)
    x ^= x >> np.uint32(15)
    x *= np.uint32(0x846CA68B)
    x ^= x >> np.uint32(16)
    x ^= high[:, None]
    return x


def permute(
    places: Int[np.ndarray, " b"], count: int, *, key: int | UInt64[np.ndarray, " b"]
) -> Int[np.ndarray, " b"]:
    """Where the keyed permutation of `range(count)` sends each place.

    A generalised Feistel network with cycle walking (Black and Rogaway, 2002): a place costs the
    same whatever `count` is, and nothing the size of the corpus is ever held.

    Args:
      places: in `range(count)`.
      key: one for all places, or one for each: places of several epochs at once.
    """
    sides = _sides(count)
    keys = np.broadcast_to(np.asarray(key, np.uint64), places.shape)
    found = _feistel(places.astype(np.uint64), sides, keys)
    while (outside := found >= np.uint64(count)).any():
        found[outside] = _feistel(found[outside], sides, keys[outside])
    return found.astype(np.int64)


def _sides(count: int) -> tuple[np.uint64, np.uint64]:
    """The nearest to a square that holds `count`: hardly a place walks a second time."""
    left = math.isqrt(count - 1) + 1
    return np.uint64(left), np.uint64(-(-count // left))


def _feistel(x, sides, keys):
    halves = list(np.divmod(x, sides[1]))
    for turn, key in enumerate(keys + STEP * np.arange(ROUNDS, dtype=np.uint64)[:, None]):
        mine, other = turn % 2, 1 - turn % 2
        # 32 bits of the mixture: the sum must not overflow, or two halves would become one.
        halves[mine] = (halves[mine] + _round_function(halves[other] + key)) % sides[mine]
    return halves[0] * sides[1] + halves[1]


def _round_function(x):
    """32 bits of a function of x: half of `mix`, since the rounds mix too."""
    x *= ONE_FACTOR
    x ^= x >> HALF
    x *= OTHER_FACTOR
    x >>= HALF
    return x
