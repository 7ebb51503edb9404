"""Servers with OpenAI's API, started as processes of their own."""

import os
import socket
import subprocess
import time
import urllib.request
from contextlib import contextmanager

import pytest


@contextmanager
def run_server(command, log, health="health"):
    """Run a command with a free port, and give its address when it answers; `log` is a file for what it prints."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            stdout=output,
            stderr=output,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
        )
    try:
        for _ in range(240):
            assert process.poll() is None, log.read_text()
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/{health}", timeout=5):
                    break
            except OSError:
                time.sleep(0.5)
        else:
            pytest.fail(log.read_text())
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(20)
