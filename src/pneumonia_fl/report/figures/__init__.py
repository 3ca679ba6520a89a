"""Draw the charts and pictures of reports and run folders."""
