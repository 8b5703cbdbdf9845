# SPDX-License-Identifier: Apache-2.0
"""One training step, its loop, optimiser, checkpoints and processes: no task, no stage."""
