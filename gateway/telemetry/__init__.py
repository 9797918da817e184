"""Logs, metrics and traces. Instruments the other packages, none of which imports it."""
