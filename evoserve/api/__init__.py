"""OpenAI's HTTP API over an `Engine`; text, templates and stop strings live here."""
