# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning: a checkpoint and a task in, tuned parameters and scores out."""
