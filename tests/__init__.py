"""Tests talk to the gateway as its clients do, on SQLite and on PostgreSQL."""
