"""The inventory of machines and snapshots: import, refresh from providers, provider configuration, the demo world."""
