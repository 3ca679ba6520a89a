"""Train one network on one site's images: plain PyTorch that knows nothing of federated learning."""
