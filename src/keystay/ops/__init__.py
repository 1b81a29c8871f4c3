"""What people run: registration, rotation, publishing, reports. No running client loads it."""
