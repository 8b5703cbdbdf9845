# SPDX-License-Identifier: Apache-2.0
"""A pool of unlabelled texts: embedded once, kept, searched exactly."""
