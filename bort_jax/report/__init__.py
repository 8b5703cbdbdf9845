# SPDX-License-Identifier: Apache-2.0
"""What people see: tables in the terminal, pictures, one self-contained HTML page."""
