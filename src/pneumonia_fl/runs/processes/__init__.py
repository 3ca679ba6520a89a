"""The processes of a run, and of a kit's job: how they start warm, how they are found and ended."""
