"""Alembic migrations, shipped with the package, and run by `gateway migrate` and at startup."""
