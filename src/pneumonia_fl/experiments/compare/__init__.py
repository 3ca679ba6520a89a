"""Is the federated model worth it? Central training, every site alone and federated jobs, on the same test images."""
