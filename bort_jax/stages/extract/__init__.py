# SPDX-License-Identifier: Apache-2.0
"""Extraction: a search space in, the architecture with the largest W out."""
