"""Google Cloud KMS keys for keystay."""
