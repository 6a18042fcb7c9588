"""What requests keep between steps, as a fold over a model's tree: keys and values, latents, pooled keys, states.

Three layouts differ in what they keep, not in what it means. ``engine`` is what the model needs, as serving engines
keep it. ``dynamic`` and ``static`` are what the cache classes of transformers keep, which `planner verify` measures:
``dynamic`` grows with a sequence, ``static`` is as long as it will ever be. Latents are cached as such in all three.
"""

from planner.cache.groups import CacheGroup, Kind, Layout, cache_groups, row_groups
from planner.cache.pool import pool_bytes_per_token, state_block_size
from planner.cache.sizes import (
    Requests,
    Storage,
    bytes_per_token,
    cache_bytes,
    fixed_bytes,
    group_bytes,
    kept_keys,
    paged,
    rank_row_bytes,
    row_name,
    storage,
)

__all__ = [
    "CacheGroup",
    "Kind",
    "Layout",
    "Requests",
    "Storage",
    "bytes_per_token",
    "cache_bytes",
    "cache_groups",
    "fixed_bytes",
    "group_bytes",
    "kept_keys",
    "paged",
    "pool_bytes_per_token",
    "rank_row_bytes",
    "row_groups",
    "row_name",
    "state_block_size",
    "storage",
]
