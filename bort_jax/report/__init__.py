# SPDX-License-Identifier: Apache-2.0
"""Reports for people: tables in the terminal, pictures, one self-contained HTML page."""
