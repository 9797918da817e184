"""The import of ManageIQ dumps: parse the file, stage its records, check them, merge them into the inventory."""
