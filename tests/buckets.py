"""Buckets on this machine: a server that speaks S3, for tests and campaigns."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import boto3
from moto.server import ThreadedMotoServer

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@contextmanager
def served(host: str = "127.0.0.1") -> Iterator[dict[str, str]]:
    """An S3 server in this process, for any process; gives the environment by which it is found."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it notes every request
    server = ThreadedMotoServer(host, port=0, verbose=False)
    server.start()
    try:
        yield {**CREDENTIALS, "AWS_ENDPOINT_URL": f"http://{host}:{server.get_host_and_port()[1]}"}
    finally:
        server.stop()


@contextmanager
def beside() -> Iterator[dict[str, str]]:
    """As `served`, in a process of its own: what it takes is not this one's."""
    command = [sys.executable, "-m", "tests.buckets"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())
        process.stdin.close()


def made(environment: dict[str, str]) -> str:
    """A new bucket; its address."""
    name = f"lab-{uuid.uuid4().hex}"
    client(environment).create_bucket(Bucket=name)
    return f"s3://{name}"


def client(environment: dict[str, str] | None = None):
    """Amazon's own client, beside the one that is tested."""
    found = {**os.environ, **(environment or {})}
    return boto3.client(
        "s3",
        endpoint_url=found["AWS_ENDPOINT_URL"],
        region_name=found["AWS_DEFAULT_REGION"],
        aws_access_key_id=found["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=found["AWS_SECRET_ACCESS_KEY"],
    )


if __name__ == "__main__":
    with served() as found:
        print(json.dumps(found), flush=True)
        sys.stdin.read()
