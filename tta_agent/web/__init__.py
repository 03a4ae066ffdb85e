"""HTTP servers of ours: listening, limits of connections, bodies, and checks of the caller."""
