# SPDX-License-Identifier: Apache-2.0
"""One loop, two programs: pretraining and fine-tuning."""
