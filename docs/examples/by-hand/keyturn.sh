#!/bin/sh
# Calls an API with a key, and follows the key's rotations: keyturn.sh <url> [options of curl …]
#
# KEYS is a file with the key in its first line, and the one before it in the second. KEYTURN_API is the control plane. The answer goes
# to standard output; the exit code is 1 when the key was refused. Keys never stand in the arguments of a process, where others can see them.
set -eu
umask 077
: "${KEYS:?the file with the key}" "${KEYTURN_API:?the address of the control plane}"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# send <key> <options of curl …>: prints the status; the answer is in $work
send() {
  key=$1
  shift
  printf 'header = "Authorization: Bearer %s"\n' "$key" |
    curl --config - --silent --show-error --max-time 30 --dump-header "$work/headers" --output "$work/body" --write-out '%{http_code}' "$@"
}

# keep <key> <the one before it>: as a whole or not at all
keep() {
  printf '%s\n%s\n' "$1" "$2" >"$KEYS.new"
  sync "$KEYS.new"
  mv "$KEYS.new" "$KEYS"
}

# claim <key>: fetches the key that replaces it, once; one process at a time
claim() (
  exec 9>"$KEYS.lock"
  flock --nonblock 9 || exit 0
  [ "$(sed -n 1p "$KEYS")" = "$1" ] || exit 0
  status=$(send "$1" --request POST "$KEYTURN_API/v1/successor") || exit 0
  if [ "$status" = 200 ]; then
    keep "$(sed -n 's/.*"token":"\([^"]*\)".*/\1/p' "$work/body")" "$1"
  elif [ "$status" -lt 500 ]; then
    # Asking again would only raise alarms. claim-used: if it was not you, tell the provider at once.
    sed -n 's/.*"code":"\([^"]*\)".*/no new key: \1/p' "$work/body" >&2
    touch "$KEYS.refused"
  fi
)

current=$(sed -n 1p "$KEYS")
previous=$(sed -n 2p "$KEYS")
status=$(send "$current" "$@")
if [ "$status" = 401 ] && [ -n "$previous" ]; then
  # Another process may have switched, or the provider has gone back to the old key.
  now=$(sed -n 1p "$KEYS")
  [ "$now" != "$current" ] || now=$previous
  status=$(send "$now" "$@")
  [ "$status" = 401 ] || keep "$now" "$current"
  current=$now
fi
cat "$work/body"
if grep -qi '^keyturn-key-rotation:' "$work/headers" && [ ! "$KEYS.refused" -nt "$KEYS" ]; then claim "$current"; fi
[ "$status" != 401 ]
