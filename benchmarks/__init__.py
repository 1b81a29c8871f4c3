"""What keystay costs, against the raw device and against other libraries, as ratios of one run."""
