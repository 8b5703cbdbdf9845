# SPDX-License-Identifier: Apache-2.0
"""The user's cache folder."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """`bort_jax` in the cache folder of the XDG specification; it may not exist yet.

    By the specification an empty or relative path counts as unset.
    """
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (given if given.is_absolute() else Path.home() / ".cache") / "bort_jax"
