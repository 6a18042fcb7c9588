"""Whether something fits into the memory of a device, and how many devices it takes."""

from __future__ import annotations

from typing import Any

from planner.numeric import Num, ceil_div


def headroom_bytes(memory_bytes: Num, needed_bytes: Num) -> Num:
    """Memory of one device that is left.

    Parameters
    ----------
    memory_bytes : Num
        Memory of the device that programs can see. [B]
    needed_bytes : Num
        What must be held. [B]

    Returns
    -------
    Num
        Negative where it does not fit. [B]

    Examples
    --------
    >>> headroom_bytes(24 * 2**30, 16_060_522_496)  # an 8B model in bf16 on 24 GiB
    9709281280
    """
    return memory_bytes - needed_bytes


def fits(memory_bytes: Num, needed_bytes: Num) -> Any:
    """Whether one device holds it.

    Parameters
    ----------
    memory_bytes, needed_bytes : Num
        As in `headroom_bytes`. [B]

    Returns
    -------
    bool or column of bool
        An exact fit is one. [-]

    Examples
    --------
    >>> fits(2**30, 2**30), fits(2**30, 2**30 + 1)
    (True, False)
    """
    return headroom_bytes(memory_bytes, needed_bytes) >= 0


def min_devices(memory_bytes: Num, needed_bytes: Num) -> Num:
    """Smallest number of equal devices whose memory together holds it, spread evenly to the byte.

    Parameters
    ----------
    memory_bytes : Num
        Memory of one device. [B]
    needed_bytes : Num
        What must be held, all of it divisible. [B]

    Returns
    -------
    Num
        A lower bound: nothing is replicated, and no device keeps anything of its own. [device]

    Examples
    --------
    >>> min_devices(80, 80), min_devices(80, 81), min_devices(80, 800)
    (1, 2, 10)
    """
    return ceil_div(needed_bytes, memory_bytes)
