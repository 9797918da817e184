"""Authentication, authorization and quotas: who the caller is, what it may read and change, and how much."""
