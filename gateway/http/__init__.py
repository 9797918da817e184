"""What every HTTP surface shares: errors, bodies, request ids, browser safety, load shedding, health and pages."""
