"""Federation: the only package that imports nvflare."""
