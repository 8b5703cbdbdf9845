# SPDX-License-Identifier: Apache-2.0
"""One module a verb: a `Config` dataclass and `run(config)`."""
