"""Programs that measure the exporter and what it exports; each prints a table and writes JSON."""
