"""From a folder of medical literature to evidence about which adapted model to deploy."""

__version__ = "0.1.0"
