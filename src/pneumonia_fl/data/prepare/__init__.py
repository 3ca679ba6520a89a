"""Turn a source into one checked folder per site: decode, deduplicate, partition, write, validate."""
