"""Find the packages and add configs/ to them, as pipelines/configs; the rest is in setup.cfg."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["bert_jax*", "pipelines*", "tpu*"]), "pipelines.configs"],
    package_dir={"pipelines.configs": "configs"},
)
