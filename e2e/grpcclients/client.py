"""Calls what it is told to, and says who answered. Reads commands as lines of JSON, answers each with a line."""

import collections
import json
import sys

import grpc
import grpc.experimental

channels = {}


def call(target, timeout, metadata):
    if target not in channels:
        fallback = grpc.experimental.insecure_channel_credentials()
        channels[target] = grpc.secure_channel(target, grpc.xds_channel_credentials(fallback))
    who = channels[target].unary_unary(
        "/meridian.test.Echo/Who", request_serializer=lambda b: b, response_deserializer=lambda b: b)
    try:
        # A StringValue of less than 128 bytes: a tag, a length, the text.
        return who(b"", timeout=timeout, metadata=metadata)[2:].decode()
    except grpc.RpcError as e:
        return "error %s: %s" % (e.code().name, e.details())


for line in sys.stdin:
    cmd = json.loads(line)
    counts = collections.Counter(
        call(cmd["target"], cmd["timeout"], list(cmd["metadata"].items())) for _ in range(cmd["calls"]))
    print(json.dumps(counts), flush=True)
