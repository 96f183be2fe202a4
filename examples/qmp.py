#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""Sends a command to a running qemu and prints its answer as JSON.

Usage: qmp.py [--until EVENT] SOCKET COMMAND [ARGUMENTS]

SOCKET is that of qemu's option -qmp unix:SOCKET,server=on,wait=off, ARGUMENTS is a JSON object. With --until it returns
when qemu has reported that event after the command, such as DEVICE_DELETED. The exit status is 1 if qemu refuses.
"""

import argparse
import json
import socket
import sys

LIMIT_S = 60


def main():
    parser = argparse.ArgumentParser(prog="qmp.py")
    parser.add_argument("--until", metavar="EVENT", help="wait for this event")
    parser.add_argument("socket", metavar="SOCKET")
    parser.add_argument("command", metavar="COMMAND", help="such as query-block")
    parser.add_argument("arguments", metavar="ARGUMENTS", nargs="?", type=json.loads, default={}, help="a JSON object")
    options = parser.parse_args()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(LIMIT_S)
        connection.connect(options.socket)
        lines = connection.makefile("rw", encoding="utf-8")
        lines.readline()  # the greeting
        events = set()

        def ask(command, arguments):
            lines.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
            lines.flush()
            while "event" in (message := json.loads(lines.readline())):
                events.add(message["event"])
            return message

        ask("qmp_capabilities", {})
        answer = ask(options.command, options.arguments)
        if "error" in answer:
            sys.exit(f"qmp.py: {options.command}: {answer['error']['desc']}")
        print(json.dumps(answer["return"], indent=2))
        while options.until and options.until not in events:
            events.add(json.loads(lines.readline()).get("event"))


if __name__ == "__main__":
    main()
