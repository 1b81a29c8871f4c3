"""AWS KMS keys for keystay."""
