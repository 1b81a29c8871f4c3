"""Which key signs now: the state of a rotation as a running client needs it."""
