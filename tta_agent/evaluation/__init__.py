"""Two graphs on the same records: paired results, gates, sequential tests, the rehearsed proof."""
