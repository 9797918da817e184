"""Engine, connections, transactions, migrations and the outbox's reader."""
