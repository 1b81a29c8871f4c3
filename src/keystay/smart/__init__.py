"""What SMART App Launch says: discovery, scopes, endpoints. No input or output happens here."""
