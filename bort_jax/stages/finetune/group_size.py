# SPDX-License-Identifier: Apache-2.0
"""Group sizes: members of a population that a device trains in one program."""

from collections.abc import Callable

import jax

from bort_jax.storage.memory import available_memory

LARGEST_GROUP = 64  # members of a device
WIDE = 256  # hidden size from which products fill a CPU without `vmap`
MEMORY_SHARE = 0.85  # of a device's free memory that a population may take


def members_at_once(dropout: float, *, hidden: int) -> int:
    """Members of a device that are trained together, if its memory holds them.

    A CPU with dropout trains one after the other: there a step of 8 members under `vmap` took 89
    to 221 ms a member, one alone 116; without dropout 72 and 106 (docs/finetuning.md: two cores,
    D2-A4-H128-I512). At H = 384 without dropout `vmap` of 4 took 258 ms of the processors a
    member, one alone 195. On an H200 `vmap` of 8 Borts took 0.74 of the time that they take in
    turns.
    """
    alone = jax.default_backend() == "cpu" and (dropout or hidden >= WIDE)
    return 1 if alone else LARGEST_GROUP


def largest_group(bytes_of: Callable[[int], int], *, limit: int, most: int) -> int:
    """Members that a device can hold: halved from `most` until they need no more than `limit`.

    Args:
      bytes_of: bytes that a device needs for so many members; compiles.
    """
    group = most
    while group > 1 and bytes_of(group) > limit:
        group = half(group)
    return group


def round_up(group: int) -> int:
    """The least of 1, 2, 3, 4, 6, 8, 12, … (2ᵏ and 3·2ᵏ) that is no smaller.

    Θ shrinks by any number in a round of Agora: so few sizes are compiled, and at most a third of
    the places in a group lie idle.
    """
    power = 1 << (group - 1).bit_length()
    return power * 3 // 4 if group <= power * 3 // 4 and power > 2 else power


def half(group: int) -> int:
    return -(-group // 2)


def memory_limit() -> int:
    """Bytes that a population may take on each device of this process."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return int(MEMORY_SHARE * (stats["bytes_limit"] - stats.get("bytes_in_use", 0)))
    return int(MEMORY_SHARE * available_memory() / jax.local_device_count())


def is_out_of_memory(error: Exception) -> bool:
    """Whether jax says that the device has no room."""
    return "RESOURCE_EXHAUSTED" in str(error)
