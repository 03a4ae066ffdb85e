"""Records in and out: consumers of Kafka, HTTP, the embedded log and recordings; formats, routing, batching."""
