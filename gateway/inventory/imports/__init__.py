"""The import of ManageIQ dumps: parse, stage, check, merge."""
