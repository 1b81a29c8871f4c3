"""Where processes that use the same client share its access token."""
