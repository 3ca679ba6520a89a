"""Turn the values of a report into pages: tables, wording, templates."""
