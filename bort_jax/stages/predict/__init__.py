# SPDX-License-Identifier: Apache-2.0
"""Forward passes over any number of rows, and what they score."""
