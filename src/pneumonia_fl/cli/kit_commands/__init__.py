"""Define the commands that work with startup kits: provision, services, jobs, doctor."""
