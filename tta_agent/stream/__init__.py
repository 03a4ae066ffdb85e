"""Records in and out: consumers of Kafka, the embedded log and recordings; wire formats; routing and batching."""
