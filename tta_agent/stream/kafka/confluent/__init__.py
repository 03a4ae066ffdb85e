"""Apache Kafka by confluent-kafka (librdkafka), the extra `fast`: a client of a consumer group."""
