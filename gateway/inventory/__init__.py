"""What the gateway knows of machines without being asked to change them: import, refresh and the demo world."""
