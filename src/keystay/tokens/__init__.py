"""From an assertion to an access token that stays fresh."""
