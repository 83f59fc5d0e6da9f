"""A bundle as a service: one running batch for all who ask, and OpenAI's HTTP interface before it."""
