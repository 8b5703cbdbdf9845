# SPDX-License-Identifier: Apache-2.0
"""Pictures without a screen, which leave those of a notebook where they are."""

import os
import subprocess
import sys

import pytest

SAY = "import bort_jax.report.plots, matplotlib; print(matplotlib.get_backend())"


@pytest.mark.slow
@pytest.mark.parametrize("chosen, used", [("svg", "svg"), ("", "agg")])
def test_plots_leave_a_chosen_backend_alone(chosen, used):
    call = [sys.executable, "-c", SAY]
    done = subprocess.run(
        call, env=os.environ | {"MPLBACKEND": chosen}, capture_output=True, text=True
    )
    assert done.stdout.strip().lower() == used, done.stderr
