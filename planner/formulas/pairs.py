"""Query-key pairs that a mask keeps: what the conventions of attention differ in."""

from __future__ import annotations

from planner.numeric import Num, maximum, minimum


def masked_pairs(queries: Num, past: Num, window: Num | None) -> Num:
    """Query-key pairs that a causal mask keeps, in one sequence.

    Parameters
    ----------
    queries, past : Num
        New tokens and the tokens before them. [token]
    window : Num or None
        Keys that a query sees at most, itself included. [token]

    Returns
    -------
    Num
        Exact: the i-th query sees ``min(past + i, window)`` keys. [-]

    Examples
    --------
    >>> masked_pairs(4, 0, None), masked_pairs(4, 0, 2)  # 1 + 2 + 3 + 4 and 1 + 2 + 2 + 2
    (10, 7)
    """
    if window is None:
        return queries * past + queries * (queries + 1) // 2
    # Queries whose whole past still fits into the window; all later ones see exactly the window.
    growing = minimum(maximum(window - past, 0), queries)
    return growing * past + growing * (growing + 1) // 2 + (queries - growing) * window


def banded_pairs(queries: Num, window: Num) -> Num:
    """Query-key pairs that a window on both sides keeps, in one sequence.

    Parameters
    ----------
    queries : Num
        Tokens. [token]
    window : Num
        Keys that a query sees at most on each side, itself included. [token]

    Returns
    -------
    Num
        Exact: both causal halves, which share the diagonal. [-]

    Examples
    --------
    >>> banded_pairs(4, 2)  # 2 + 3 + 3 + 2
    10
    """
    return 2 * masked_pairs(queries, 0, window) - queries


def chunked_pairs(queries: Num, past: Num, chunk: Num) -> Num:
    """Query-key pairs that a causal mask keeps where the sequence is cut into pieces, in one sequence.

    Parameters
    ----------
    queries, past : Num
        New tokens and the tokens before them. [token]
    chunk : Num
        Length of a piece. [token]

    Returns
    -------
    Num
        Exact: the token at position p, counted from 0, sees ``p % chunk + 1`` keys. [-]

    Examples
    --------
    >>> chunked_pairs(5, 0, 3), chunked_pairs(2, 4, 3)  # 1 + 2 + 3 + 1 + 2 and 2 + 3
    (9, 5)
    """

    def from_the_start(tokens: Num) -> Num:
        whole = tokens // chunk
        rest = tokens - whole * chunk
        return whole * (chunk * (chunk + 1) // 2) + rest * (rest + 1) // 2

    return from_the_start(past + queries) - from_the_start(past)


def pooled_pairs(queries: Num, past: Num, pool: Num, selected: Num | None) -> Num:
    """Query-key pairs that a causal mask keeps where several tokens share one key, in one sequence.

    Parameters
    ----------
    queries, past : Num
        New tokens and the tokens before them. [token]
    pool : Num
        Tokens that share a key, which is seen once the last of them is there. [token]
    selected : Num or None
        Keys that a query sees at most. [-]

    Returns
    -------
    Num
        Exact: the i-th query sees ``min((past + i) // pool, selected)`` keys. [-]

    References
    ----------
    .. [1] DeepSeek-AI, "DeepSeek-V4", section 2.3, as the class of transformers masks it.

    Examples
    --------
    >>> pooled_pairs(6, 0, 2, None), pooled_pairs(6, 0, 2, 2)  # 0 + 1 + 1 + 2 + 2 + 3 and 0 + 1 + 1 + 2 + 2 + 2
    (9, 8)
    """

    def from_the_start(tokens: Num) -> Num:
        # Queries that see no more keys than they may; all later ones see exactly as many.
        growing = tokens if selected is None else minimum(tokens, pool * (selected + 1) - 1)
        keys = growing // pool
        seen = pool * (keys * (keys - 1) // 2) + keys * (growing - keys * pool + 1)
        return seen if selected is None else seen + (tokens - growing) * selected

    return from_the_start(past + queries) - from_the_start(past)
