"""Follows the rotations of an API key with the standard library alone.

    keys = Keys("/var/lib/shop/keys.json", api="https://keys.example.com")
    with keys.open(urllib.request.Request("https://api.example.com/v1/ticker")) as response: ...

The file holds {"current": "<the key>"} to begin with; then also "previous". One process at a time claims (flock), the others read the file.
"""
import fcntl
import json
import os
import re
import sys
import time
import urllib.error
import urllib.request


class Keys:
    def __init__(self, path, api):
        self.path, self.api = path, api
        self.refused = None  # the key and its successor that was refused: asking again would only raise alarms
        self.not_before = 0  # asked again then, where that may help

    def read(self):
        with open(self.path, encoding="utf-8") as file:
            return json.load(file)

    def write(self, keys):
        """As a whole or not at all: beside it, to the disk, then in its place."""
        beside = self.path + ".new"
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(keys, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, self.path)

    def open(self, request, timeout=30):
        """As urllib.request.urlopen; its data must be bytes, so that the request can be sent again."""
        keys = self.read()
        try:
            response = self.send(request, keys["current"], timeout)
        except urllib.error.HTTPError as error:
            if error.code != 401:
                self.look(error.headers, keys["current"])
                raise
            # Another process may have switched, or the provider has gone back: the other key, before giving up.
            other = [key for key in {**keys, **self.read()}.values() if key != keys["current"]]
            if not other:
                raise
            response = self.send(request, other[0], timeout)
            self.write({"current": other[0], "previous": keys["current"]})
            return response
        self.look(response.headers, keys["current"])
        return response

    def send(self, request, key, timeout):
        request.add_unredirected_header("Authorization", f"Bearer {key}")
        return urllib.request.urlopen(request, timeout=timeout)

    def look(self, headers, key):
        notice = re.search(r"\bsuccessor=(\d+)", headers.get("Keyturn-Key-Rotation", ""))
        if notice and (key, notice[1]) != self.refused and time.monotonic() >= self.not_before:
            self.claim(key, notice[1])

    def claim(self, old, successor):
        with open(self.path + ".lock", "w", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return  # another process is at it
            if self.read()["current"] != old:
                return
            json_type = {"Content-Type": "application/json"}
            request = urllib.request.Request(f"{self.api}/v1/successor", b"{}", json_type, method="POST")
            try:
                with self.send(request, old, 10) as response:
                    new = json.load(response)["token"]
            except urllib.error.HTTPError as error:
                try:
                    code = json.load(error).get("code")
                except ValueError:
                    code = error.code
                if error.code >= 500 or error.code == 429 or code == "no-successor":
                    self.not_before = time.monotonic() + 10
                else:
                    self.refused = old, successor
                print(f"no new key: {code}", file=sys.stderr)  # claim-used: if it was not you, tell the provider at once
                return
            except OSError as error:
                self.not_before = time.monotonic() + 10
                print(f"no new key: the control plane does not answer ({error})", file=sys.stderr)
                return
            self.write({"current": new, "previous": old})


def main():
    """Calls a URL all the time until SIGTERM: keyturn_client.py <keys file> <control plane> <url>"""
    import signal

    keys, url = Keys(sys.argv[1], sys.argv[2]), sys.argv[3]
    ending = []
    signal.signal(signal.SIGTERM, lambda *_: ending.append(True))
    served = failed = 0
    while not ending:
        try:
            with keys.open(urllib.request.Request(url)) as response:
                response.read()
            served += 1
        except urllib.error.HTTPError as error:
            failed += 1
            print(f"failed {error.code}", flush=True)
        time.sleep(0.05)
    print(f"served {served}, failed {failed}", flush=True)


if __name__ == "__main__":
    main()
