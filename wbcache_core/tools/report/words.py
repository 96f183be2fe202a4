# SPDX-License-Identifier: BSD-3-Clause
"""What each kind of request is, and what it means if it is slow; and the parameters, in a few words."""

LATENCIES = {
    "read ring": ("Reads from memory", "green",
        "What was written last is still in the server's memory (the ring). Some microseconds; if it is more, the "
        "machine has too little CPU for its load."),
    "read log": ("Reads from the log", "blue",
        "One read of the fast device. If it is slow, that device is busy with commits, or slow."),
    "read origin": ("Reads from the origin", "orange",
        "wbcache does not keep what is only read. If these are too many or too slow, put nbdkit's cache filter in "
        "front of the origin, or let the client have more memory."),
    "write": ("Writes", "blue",
        "With ack=ram, a copy in memory. Long ones waited for memory, for log space, or for what ack= says."),
    "trim, zero": ("Trims and zeroes", "blue", "They move no data, and are as fast as writes."),
    "flush": ("Flushes", "violet",
        "Until everything before is durable: one write and one sync of the log. Databases and file systems wait for "
        "these. If they are slow, the log device is: use one with power-loss protection."),
    "commit": ("Commits", "violet",
        "The server's side of flushes: one write and one sync of the log, shared by all who wait. About as long as a "
        "flush; much longer ones write much data."),
    "pause": ("Pauses of writers", "orange",
        "How long single writes had to wait because the log was getting full: the cache then takes writes only as fast "
        "as the origin does. None is best."),
}  # fmt: skip
"""By name: title, colour, and meaning."""

PARAMETERS = {
    "ack": "what a write waits for: ram, log or origin",
    "flush": "what a flush waits for: log or origin",
    "fua": "what a write with FUA waits for",
    "commit-interval": "the longest time that data stays only in memory",
    "commit-size": "with so much in memory a commit begins earlier",
    "destage-delay": "the longest time until destaging of data begins",
    "destage-depth": "requests to the origin in flight",
    "low-watermark": "with so much of the log dirty, destaging begins at once",
    "high-watermark": "with so much of the log dirty, writers are slowed",
    "history": "how far back moments can be opened at least",
    "history-full": "whether they give way when the log fills up (drop), or writers wait (hold)",
    "on-exit": "whether a stop only commits, or also drains (destage)",
    "log-level": "how much the server says to its log",
}
