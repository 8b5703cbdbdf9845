# SPDX-License-Identifier: Apache-2.0
"""What was exported, timed and scored side by side."""
