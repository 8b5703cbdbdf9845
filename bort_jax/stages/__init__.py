# SPDX-License-Identifier: Apache-2.0
"""The pipeline, a folder a stage."""
