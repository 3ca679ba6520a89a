"""Implement federated algorithms: what each computes at the server between rounds and at a site in training."""
