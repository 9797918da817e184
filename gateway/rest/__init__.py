"""The ManageIQ REST routes for snapshots, built on `reads` and `operations` like GraphQL. See docs/manageiq.md."""
