# SPDX-License-Identifier: Apache-2.0
"""Agora's callables made of BERTs."""
