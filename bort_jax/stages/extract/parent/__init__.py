# SPDX-License-Identifier: Apache-2.0
"""Extraction inside a pretrained parent."""
