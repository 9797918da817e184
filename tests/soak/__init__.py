"""Long tests: crashes at every step, histories checked against a model, many subscribers, overload, deletes, memory."""
