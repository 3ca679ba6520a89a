"""What every job has at the server, whether it trains or evaluates: its record, its tasks for sites, its rounds."""
