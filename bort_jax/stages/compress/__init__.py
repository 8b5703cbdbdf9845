# SPDX-License-Identifier: Apache-2.0
"""The whole pipeline in one command."""
