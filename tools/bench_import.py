# SPDX-License-Identifier: Apache-2.0
"""Seconds of `import bort_jax` in a fresh process; median and spread of 9."""

import subprocess
import sys
import time

import numpy as np


def main(repeats: int = 9) -> None:
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import bort_jax"], check=True)
        seconds.append(time.perf_counter() - start)
    low, middle, high = np.percentile(seconds, [0, 50, 100])
    print(f"seconds: median {middle:.2f} (smallest {low:.2f}, largest {high:.2f})")


if __name__ == "__main__":
    main()
