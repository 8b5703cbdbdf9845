# SPDX-License-Identifier: Apache-2.0
"""Files that survive a kill: whole and growing files, parts, seals, run folders."""
