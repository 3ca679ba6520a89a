"""Federated algorithms: what each does at the server between rounds, and at a site while it trains."""
