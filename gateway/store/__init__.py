"""The database: connections, transactions, compiled statements and migrations, on SQLite and PostgreSQL."""
