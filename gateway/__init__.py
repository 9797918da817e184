"""Snapshot gateway: snapshots of virtual machines and cloud instances over GraphQL."""
