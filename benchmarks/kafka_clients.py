"""Cost of a record by client: kafka-python, confluent-kafka, and the consumer of the agent around each.

    python benchmarks/kafka_clients.py [--records 20000] [--repeats 5] [--json OUT]

One broker, one topic of four partitions, records of 12 KB as the tap writes them. Each client runs in a process of
its own, in turn within each repeat; it makes (topic, partition, offset, time, key, value, headers) of each record.
Counted are processor time of all its threads, and time, from the first record to the last; medians.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
CLIENTS = ("kafka-python", "agent by kafka-python", "confluent-kafka", "agent by confluent-kafka")


def polls_of_kafka_python(servers, topic):
    """Lists of records."""
    from kafka import KafkaConsumer

    options = {"enable_auto_commit": False, "auto_offset_reset": "earliest", "fetch_max_bytes": 16 << 20}
    consumer = KafkaConsumer(topic, bootstrap_servers=servers, group_id=str(time.time_ns()), **options)
    while True:
        found = consumer.poll(250)
        yield [
            (r.topic, r.partition, r.offset, r.timestamp, r.key, r.value, tuple(r.headers))
            for some in found.values()
            for r in some
        ]


def polls_of_agent(servers, topic, client="kafka-python"):
    """Lists of records."""
    from tta_agent.stream.kafka.consumer import KafkaStreamConsumer

    consumer = KafkaStreamConsumer(servers, [topic], str(time.time_ns()), start="earliest", client=client)
    while True:
        yield consumer.poll(0.25)


def polls_of_confluent_kafka(servers, topic):
    """Lists of records."""
    from confluent_kafka import Consumer

    options = {"enable.auto.commit": False, "auto.offset.reset": "earliest", "fetch.max.bytes": 16 << 20}
    bound = {"queued.max.messages.kbytes": 16 << 10}
    consumer = Consumer({"bootstrap.servers": servers, "group.id": str(time.time_ns()), **options, **bound})
    consumer.subscribe([topic])
    while True:
        yield [
            (
                m.topic(),
                m.partition(),
                m.offset(),
                m.timestamp()[1],
                m.key(),
                m.value(),
                tuple(m.headers() or ()),
            )
            for m in consumer.consume(500, 0.25)
        ]


POLLS = {
    CLIENTS[0]: polls_of_kafka_python,
    CLIENTS[1]: polls_of_agent,
    CLIENTS[2]: polls_of_confluent_kafka,
    CLIENTS[3]: functools.partial(polls_of_agent, client="confluent-kafka"),
}


def drain(client, servers, topic, records):
    """Microseconds of processor and of time for each record after those of the first poll."""
    done = first = 0
    for found in POLLS[client](servers, topic):
        if not done and found:
            first, began = len(found), (time.process_time(), time.perf_counter())
        done += len(found)
        if done >= records:
            ended = (time.process_time(), time.perf_counter())
            return [(b - a) / (done - first) * 1e6 for a, b in zip(began, ended, strict=True)]
    raise AssertionError


def measured(servers, topic, records, repeats):
    """Medians by client: processor and time, in microseconds a record."""
    found = {client: [] for client in CLIENTS}
    for _ in range(repeats):
        for client in CLIENTS:
            command = [sys.executable, __file__, "--child", client, servers, topic, str(records)]
            said = subprocess.run(command, check=True, capture_output=True, text=True, cwd=HERE.parent)
            found[client].append(json.loads(said.stdout))
            print(f"  {client}: {found[client][-1]}", flush=True)
    return {client: [statistics.median(c) for c in zip(*rows, strict=True)] for client, rows in found.items()}


def main():
    """All clients, and their ratio."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--records", type=int, default=20_000)
    asked.add_argument("--repeats", type=int, default=5)
    asked.add_argument("--json", type=Path)
    asked.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    asked = asked.parse_args()
    if asked.child:
        client, servers, topic, records = asked.child
        print(json.dumps(drain(client, servers, topic, int(records))))
        return
    import lifecycle
    import stream

    from tests.parts.kafka.broker import broker

    with tempfile.TemporaryDirectory() as folder, broker(Path(folder)) as servers:
        shape = stream.SIZES["ratio_12k"]
        settings = lifecycle.settings(stream.environ(Path(folder), servers, shape, "clients"))
        stream.fill(settings, shape, asked.records)
        found = measured(servers, "clients", asked.records, asked.repeats)
    for client, (cpu, seconds) in found.items():
        print(f"{client:24} {cpu:7.1f} us of processor, {seconds:7.1f} us of time a record")
    ratio, agent = (found[CLIENTS[i]][0] / found[CLIENTS[i + 2]][0] for i in (0, 1))
    print(f"kafka-python over confluent-kafka, processor: {ratio:.2f}; the agent's consumer: {agent:.2f}")
    if asked.json:
        asked.json.write_text(json.dumps({**found, "ratio": ratio, "ratio_agent": agent}, indent=1) + "\n")


if __name__ == "__main__":
    main()
