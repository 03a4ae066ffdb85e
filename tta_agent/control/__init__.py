"""Commands of people: inbox, webhooks, HTTP interface."""
