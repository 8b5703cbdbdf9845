# SPDX-License-Identifier: Apache-2.0
"""The presets of `configs/` go into the wheel as `bort_jax/configs`; all else is in pyproject."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["bort_jax*"]), "bort_jax.configs"],
    package_dir={"bort_jax.configs": "configs"},
    package_data={"bort_jax.configs": ["*.yaml"]},
)
