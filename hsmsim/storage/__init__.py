"""SQL: engines, tables and migrations (DESIGN D11). Knows no rule of a cluster; values go in and out as columns."""
