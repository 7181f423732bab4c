"""The version of OpenMaaS; pyproject.toml says the same, which a test holds."""

__version__ = "0.1.0"
