"""Requests signed in plain header fields as contract/README.md describes them, checked against the vectors in the folder named as argument."""
import hashlib, hmac, json, pathlib, sys

vectors = json.loads((pathlib.Path(sys.argv[1]) / "plain-signatures.json").read_text("utf-8"))
wrong = 0
for request in vectors["requests"]:
    digest = hashlib.sha256(request["body"].encode()).hexdigest()
    lines = [request["timestamp"], request["nonce"], request["method"], request["path"], digest]
    if "sequence" in request: lines.append(request["sequence"])
    signature = hmac.new(vectors["token"].encode(), "\n".join(lines).encode(), hashlib.sha256).hexdigest()
    wrong += signature != request["signature"]
print(f"{len(vectors['requests'])} requests, {wrong} wrong")
