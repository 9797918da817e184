"""The ManageIQ REST routes for snapshots: another surface over the same `reads` and `operations` as GraphQL.

`docs/manageiq.md` says what is the same as in ManageIQ and what is not.
"""
