"""Where records come from: Apache Kafka, or a log of our own in one file."""
