# SPDX-License-Identifier: Apache-2.0
"""Files that survive a kill: whole files, growing files, seals, run folders."""
