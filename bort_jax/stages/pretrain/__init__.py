# SPDX-License-Identifier: Apache-2.0
"""Pre-training: text in, a masked LM out, alone or by distillation."""
