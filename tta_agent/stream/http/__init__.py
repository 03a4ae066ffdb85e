"""Records over HTTP, without a broker: a receiver in the agent, and the producer that posts to it."""
