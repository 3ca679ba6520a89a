"""From X-ray files to what training reads: sources, manifest, partition, store."""
