"""Tokens as contract/README.md describes them, checked against the vectors in the folder named as argument."""
import base64, hashlib, json, pathlib, re, sys, zlib

DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

def base62(number, width):
    text = ""
    while number:
        number, digit = divmod(number, 62)
        text = DIGITS[digit] + text
    return text.rjust(width, "0")

def checksum(body):
    return base62(zlib.crc32(body.encode()), 6)

def make(brand, environment, key_id, secret):
    body = f"{brand}_{environment}_{key_id}_{base62(int.from_bytes(secret, 'big'), 43)}"
    return body + checksum(body)

def flaw(token):
    parts = token.split("_")
    if len(parts) != 4: return "shape"
    brand, environment, key_id, tail = parts
    if not re.fullmatch("[a-z][a-z0-9]{1,9}", brand): return "brand"
    if environment not in ("dev", "test", "prod"): return "environment"
    if not re.fullmatch("[0-9A-Za-z]{16}", key_id): return "key-id"
    if not re.fullmatch("[0-9A-Za-z]{49}", tail): return "secret"
    if checksum(token[:-6]) != token[-6:]: return "checksum"

def verifier(token):
    return base64.b64encode(hashlib.sha256(token.encode()).digest()).decode()

room = pathlib.Path(sys.argv[1])
tokens = json.loads((room / "tokens.json").read_text("utf-8"))
wrong = [v["token"] for v in tokens["bad"] if flaw(v["token"]) != v["flaw"]]
for v in tokens["good"]:
    made = make(v["brand"], v["environment"], v["keyId"], bytes.fromhex(v["secretHex"]))
    if (made, flaw(v["token"]), verifier(made)) != (v["token"], None, v["sha256"]): wrong.append(v["token"])
for v in json.loads((room / "verifiers.json").read_text("utf-8")):
    if verifier(v["token"]) != v["sha256"]: wrong.append(v["token"])
print(len(tokens["good"]), "good,", len(tokens["bad"]), "bad,", len(wrong), "wrong")
sys.exit(1 if wrong else 0)
