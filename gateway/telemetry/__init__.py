"""What is seen from outside: logs, metrics and traces. It looks at the other rooms; none of them knows of it."""
