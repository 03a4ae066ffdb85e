"""Commands of people and webhooks: command line, inbox, HTTP."""
