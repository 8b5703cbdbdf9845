# SPDX-License-Identifier: Apache-2.0
"""Wall time and peak memory of `bort-jax quickstart` with an empty compilation cache, and of a
second run into the same folder. Arguments are handed on, such as --preset smoke."""

import os
import resource
import subprocess
import sys
import tempfile
import time


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        environment = os.environ | {"XDG_CACHE_HOME": f"{scratch}/cache"}
        command = [sys.executable, "-m", "bort_jax.cli", "quickstart", "--out", f"{scratch}/run"]
        for name in ("cold cache, empty folder", "second run into the same folder"):
            start = time.perf_counter()
            subprocess.run(
                command + sys.argv[1:], env=environment, check=True, stdout=subprocess.DEVNULL
            )
            seconds = time.perf_counter() - start
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
            print(f"{name}: {seconds:.0f} s, peak memory so far {peak:.2f} GiB", flush=True)


if __name__ == "__main__":
    main()
