"""Build the blocks and tables of a report page."""
