"""The `ec2` driver."""
