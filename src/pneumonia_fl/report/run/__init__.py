"""Write the report of one run: headline, warnings, performance, mistakes, model card."""
