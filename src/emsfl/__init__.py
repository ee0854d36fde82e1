"""Federated tuning of mixture-of-experts models over satellite links."""

__version__ = "0.1.0"
