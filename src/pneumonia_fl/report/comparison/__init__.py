"""Write the report of a comparison of models."""
