"""The read compiler: selection + filter + sort + page -> SQL -> rows -> JSON-ready values. Knows nothing of HTTP."""
