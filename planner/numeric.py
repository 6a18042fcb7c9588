"""The arithmetic that a formula may use, on one number, a column, or a symbol.

`Num` is a Python int (exact, for a single plan), a float64 numpy array (a column, for a sweep), or, where a
derivation is printed, a sympy expression. Formulas use ``+ - * / // **`` and the functions here, never a branch on
a value, so the same code serves all three. This is the only module that tells them apart.

Columns are float64 and not int64, because int64 overflows without a word (405e9 * 6 * 16e6 does), while float64 holds
every integer up to 2**53 exactly and `exact_integers` refuses anything beyond it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Column: TypeAlias = npt.NDArray[np.float64]
    Num: TypeAlias = int | float | Column
else:
    Column: TypeAlias = Any
    Num: TypeAlias = Any

LARGEST_EXACT = 2**53
"""Above this a float64 no longer holds every integer."""


def is_column(value: object) -> bool:
    """Whether a number is a column rather than a single value."""
    return hasattr(value, "dtype") and getattr(value, "ndim", 0) > 0


def is_symbol(value: object) -> bool:
    """Whether a number is a sympy expression."""
    return hasattr(value, "free_symbols")


def ceil_div(numerator: Num, denominator: Num) -> Num:
    """Quotient rounded up, exact for integers.

    Examples
    --------
    >>> ceil_div(7, 2)
    4
    """
    return -(-numerator // denominator)


def maximum(first: Num, second: Num) -> Num:
    """Larger of two numbers, element by element for columns.

    Examples
    --------
    >>> maximum(3, 5)
    5
    """
    if is_column(first) or is_column(second):
        import numpy as np

        return np.maximum(first, second)
    if is_symbol(first) or is_symbol(second):
        import sympy

        return sympy.Max(first, second)  # type: ignore[no-any-return]
    return max(first, second)


def minimum(first: Num, second: Num) -> Num:
    """Smaller of two numbers, element by element for columns.

    Examples
    --------
    >>> minimum(3, 5)
    3
    """
    return -maximum(-first, -second)


def where(condition: Any, if_true: Num, if_false: Num) -> Num:
    """One of two numbers by a condition, element by element for columns.

    Examples
    --------
    >>> where(2 > 1, 10, 20)
    10
    """
    if is_column(condition):
        import numpy as np

        return np.where(condition, if_true, if_false)
    return if_true if condition else if_false


def next_power_of_two(number: Num) -> Num:
    """Smallest power of two that is not below a number of at least 1.

    Examples
    --------
    >>> next_power_of_two(512), next_power_of_two(513)
    (512, 1024)
    """
    if is_column(number):
        import numpy as np

        mantissa, exponent = np.frexp(number)
        return np.ldexp(1.0, np.where(mantissa == 0.5, exponent - 1, exponent))
    if is_symbol(number):
        import sympy

        return 2 ** sympy.ceiling(sympy.log(number, 2))  # type: ignore[no-any-return]
    return 1 << (math.ceil(number) - 1).bit_length()


def exact_quotient(numerator: Num, denominator: Num) -> Num:
    """Quotient of numbers that are known to divide; a symbol stays a fraction, without a floor around it.

    Examples
    --------
    >>> exact_quotient(768, 12)
    64
    """
    return numerator / denominator if is_symbol(numerator) or is_symbol(denominator) else numerator // denominator


def all_true(condition: Any) -> bool:
    """Whether a condition holds for the number, or for every element of the column. Symbols hold by definition."""
    if is_column(condition):
        return bool(condition.all())
    if is_symbol(condition):
        return True
    return bool(condition)


def divides(divisor: Num, number: Num) -> bool:
    """Whether `number` is a multiple of `divisor`, in every element.

    Examples
    --------
    >>> divides(12, 768), divides(13, 768)
    (True, False)
    """
    if is_symbol(divisor) or is_symbol(number):
        return True
    return all_true(number % divisor == 0)


def exact_integers(column: Column) -> npt.NDArray[np.int64]:
    """Column of whole numbers as int64, refused where float64 could have lost a digit.

    Raises
    ------
    OverflowError
        An element lies beyond 2**53, or is not whole.

    Examples
    --------
    >>> import numpy as np
    >>> exact_integers(np.array([1.0, 2.0**40]))
    array([            1, 1099511627776])
    """
    import numpy as np

    whole = np.rint(column)
    if not np.array_equal(whole, column):
        raise OverflowError("a count or a size in bytes is not a whole number")
    if column.size and float(np.abs(column).max()) > LARGEST_EXACT:
        raise OverflowError(f"a count or a size in bytes is beyond 2**53 = {LARGEST_EXACT:,}")
    return whole.astype(np.int64)
