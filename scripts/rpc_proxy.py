"""A TCP proxy that delays and limits what passes, and counts ggml's RPC commands. Needs only Python 3.8.

It stands in for a network between two machines where the kernel has no netem. Delay and rate hold per direction.
"""

import queue
import socket
import threading
import time
from collections import Counter

# enum rpc_cmd in ggml-rpc.cpp
COMMANDS = ["alloc buffer", "get alignment", "get max size", "buffer get base", "free buffer", "buffer clear", "set tensor",
            "set tensor hash", "get tensor", "copy tensor", "graph compute", "get device memory", "init tensor", "get alloc size",
            "hello", "device count", "graph recompute", "memset tensor"]
PIECE = 256 << 10


class Counts:
    """Bytes per command, in both directions; commands; round trips: answers that follow a request."""

    def __init__(self):
        self.lock = threading.Lock()
        self.bytes, self.commands = Counter(), Counter()
        self.round_trips = 0
        self.waits_for_answer = False
        self.last = ""

    def snapshot(self):
        with self.lock:
            return self.round_trips, sum(self.bytes.values()), Counter(self.bytes), Counter(self.commands)


class Requests:
    """Splits what a client sends into commands: a byte, the length in eight bytes, the data."""

    def __init__(self, counts):
        self.counts = counts
        self.header = b""
        self.rest = 0

    def pass_on(self, data):
        counts = self.counts
        with counts.lock:
            counts.waits_for_answer = True
            place = 0
            while place < len(data):
                if self.rest:
                    n = min(self.rest, len(data) - place)
                    self.rest -= n
                else:
                    n = min(9 - len(self.header), len(data) - place)
                    self.header += data[place:place + n]
                    if len(self.header) == 9:
                        command = self.header[0]
                        counts.last = COMMANDS[command] if command < len(COMMANDS) else str(command)
                        counts.commands[counts.last] += 1
                        self.rest = int.from_bytes(self.header[1:], "little")
                        self.header = b""
                counts.bytes[counts.last] += n
                place += n


class Answers:
    def __init__(self, counts):
        self.counts = counts

    def pass_on(self, data):
        counts = self.counts
        with counts.lock:
            counts.round_trips += counts.waits_for_answer
            counts.waits_for_answer = False
            counts.bytes[counts.last] += len(data)


class Proxy:
    """Listens on `port` of this machine, and connects to `to`."""

    def __init__(self, to, delay, rate):
        """`delay` in seconds and `rate` in bytes per second, or 0 for no limit, per direction."""
        self.to, self.delay, self.rate = to, delay, rate
        self.counts = Counts()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            client, _ = self.listener.accept()
            server = socket.create_connection(("127.0.0.1", self.to))
            for one in (client, server):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for source, target, seen in ((client, server, Requests(self.counts)), (server, client, Answers(self.counts))):
                passing = queue.Queue(maxsize=64)
                threading.Thread(target=self.receive, args=(source, passing, seen), daemon=True).start()
                threading.Thread(target=self.send, args=(target, passing), daemon=True).start()

    def receive(self, source, passing, seen):
        sent = 0.0
        data = b"?"
        while data:
            try:
                data = source.recv(PIECE)
            except OSError:
                data = b""
            seen.pass_on(data) if data else None
            # On the wire one piece follows the other.
            sent = max(sent, time.monotonic()) + (len(data) / self.rate if self.rate else 0)
            passing.put((sent + self.delay, data))

    def send(self, target, passing):
        while True:
            due, data = passing.get()
            wait = due - time.monotonic()
            if wait > 0:
                time.sleep(wait)
            try:
                if not data:
                    target.shutdown(socket.SHUT_WR)
                    return
                target.sendall(data)
            except OSError:
                return
