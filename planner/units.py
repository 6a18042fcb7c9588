"""Units: the factors, and the only place that turns a number into text for people.

GiB is 2**30 bytes and GB is 10**9 bytes; every name and header says which.
"""

from __future__ import annotations

from planner.numeric import Num

KIB = 2**10
MIB = 2**20
GIB = 2**30
GB = 10**9
TERA = 10**12
GIGA = 10**9

_SI = ((10**15, "P"), (10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k"))


def format_count(value: Num) -> str:
    """Count with thousands separators; a fraction keeps two digits.

    Examples
    --------
    >>> format_count(109482240)
    '109,482,240'
    """
    return f"{value:,.2f}" if value != int(value) else f"{int(value):,}"


def format_gib(size_bytes: Num) -> str:
    """Bytes as GiB (2**30) with three decimals, without the unit: the header names it.

    Examples
    --------
    >>> format_gib(16060522496)
    '14.958'
    """
    return f"{size_bytes / GIB:,.3f}"


def format_si(value: float, unit: str = "") -> str:
    """Number with an SI prefix and four significant digits.

    Examples
    --------
    >>> format_si(16060522496, "FLOP")
    '16.06 GFLOP'
    """
    for factor, prefix in _SI:
        if abs(value) >= factor:
            return f"{value / factor:.4g} {prefix}{unit}".rstrip()
    return f"{value:.4g} {unit}".rstrip()


def format_percent(fraction: Num) -> str:
    """Signed percentage with one decimal.

    Examples
    --------
    >>> format_percent(-0.313)
    '-31.3 %'
    """
    return f"{100 * fraction:+.1f} %"


def format_share(fraction: Num) -> str:
    """Share of a whole as a percentage with two decimals.

    Examples
    --------
    >>> format_share(0.0256)
    '2.56 %'
    """
    return f"{100 * fraction:.2f} %"


def whole_bytes(size: Num) -> int:
    """Size to the nearest byte, as tables show it. [B]

    Examples
    --------
    >>> whole_bytes(2222645575.68), whole_bytes(2**60 + 1)
    (2222645576, 1152921504606846977)
    """
    return size if isinstance(size, int) else round(float(size))
