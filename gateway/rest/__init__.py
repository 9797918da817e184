"""The ManageIQ REST routes for snapshots, over the same `reads` and `operations` as GraphQL: see docs/manageiq.md."""
