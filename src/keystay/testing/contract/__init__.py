"""The parts of `SignerContract`."""
