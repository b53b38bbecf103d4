"""Health check of a container: exit status 0 if the service on this machine answers GET /healthz with 200.

usage: python3 -I -S health.py PORT [HOST]

It runs every few seconds beside the hot loop, so it imports nothing but sockets.
"""

import socket
import sys

port = int(sys.argv[1])
host = sys.argv[2] if len(sys.argv) > 2 else "127.0.0.1"
try:
    with socket.create_connection((host, port), timeout=2) as connection:
        connection.sendall(f"GET /healthz HTTP/1.0\r\nHost: {host}:{port}\r\n\r\n".encode())
        answer = b""
        while chunk := connection.recv(4096):
            answer += chunk
except OSError as error:
    sys.exit(f"no answer from {host}:{port}: {error}")
if answer.split(b" ")[1:2] != [b"200"]:
    sys.exit(answer.decode("utf-8", "replace")[:500])
