"""Replays a recorded run on files in memory."""

from os.path import normpath


class File:
    """An inode: its bytes as written, and its bytes at the last sync."""

    def __init__(self, data=b""):
        self.data, self.synced, self.writes = bytearray(data), bytes(data), []

    def sync(self):
        self.synced, self.writes = bytes(self.data), []


def apply_write(data, at, piece):
    if len(data) < at:
        data.extend(bytes(at - len(data)))
    data[at : at + len(piece)] = piece


class Call:
    """A line of the tracer's log."""

    def __init__(self, line, folder):
        fields = line.rstrip("\n").split("\t")
        self.name = fields[0]
        self.path = within(fields[1], folder)
        self.rest = fields[2:]
        self.second = within(fields[2], folder) if self.name in ("rename", "link") else None


def within(path, folder):
    """The name in the folder, "" for the folder itself."""
    path, folder = normpath(path), str(folder)
    return path[len(folder) :].lstrip("/") if path == folder or path.startswith(folder + "/") else None


def read_log(log, folder):
    return [Call(line, folder) for line in log.read_text().splitlines()]


def versions(calls, before):
    """All that each name has held whole: at the start, after each rename, at the end."""
    names = {name: File(data) for name, data in before.items()}
    found = {name: [data] for name, data in before.items()}
    for call in calls:
        step(names, call)
        if call.name in ("rename", "link") and call.second in names:
            found.setdefault(call.second, []).append(bytes(names[call.second].data))
    for name, file in names.items():
        if bytes(file.data) not in found.setdefault(name, []):
            found[name].append(bytes(file.data))
    return found


def step(names, call):
    """What a call does to files by name."""
    if call.name == "open":
        if "create" in call.rest[0] and call.path not in names:
            names[call.path] = File()
        elif "truncate" in call.rest[0] and call.path in names:
            file = names[call.path]
            file.data.clear()
            file.writes.append(("size", 0))
    elif call.name == "write" and call.path in names:
        file, at, piece = names[call.path], int(call.rest[0]), bytes.fromhex(call.rest[1])
        apply_write(file.data, at, piece)
        file.writes.append((at, piece))
    elif call.name == "truncate" and call.path in names and int(call.rest[0]) >= 0:
        file, size = names[call.path], int(call.rest[0])
        del file.data[size:]
        file.data.extend(bytes(size - len(file.data)))
        file.writes.append(("size", size))
    elif call.name == "fsync" and call.path in names:
        names[call.path].sync()
    elif call.name == "rename" and call.path in names:
        names[call.second] = names.pop(call.path)
    elif call.name == "link" and call.path in names:
        names[call.second] = names[call.path]
    elif call.name == "unlink":
        names.pop(call.path, None)
