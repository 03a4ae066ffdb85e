"""Apache Kafka by kafka-python: consumer group, producer, topics, causes of failures."""
