"""Parts of every job at the server, of training and evaluation: its record, its tasks for sites, its rounds."""
