"""Read, check, write and extend project.yml."""
