"""Records in and out: consumers of Kafka, HTTP, the embedded log and recordings; wire formats; routing and batching."""
