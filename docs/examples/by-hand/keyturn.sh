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

# claim <key> <version of the one that replaces it>: fetches that, once; one process at a time
claim() (
  exec 9>"$KEYS.lock"
  flock --nonblock 9 || exit 0
  [ "$(sed -n 1p "$KEYS")" = "$1" ] || exit 0
  : >"$work/body"
  status=$(send "$1" --request POST "$KEYTURN_API/v1/successor") || status=000
  code=$(sed -n 's/.*"code":"\([^"]*\)".*/\1/p' "$work/body")
  case "$status $code" in
    200*) keep "$(sed -n 's/.*"token":"\([^"]*\)".*/\1/p' "$work/body")" "$1" ;;
    000* | 429* | 5* | *' no-successor')
      echo "no new key yet: $status $code" >&2
      echo $(($(date +%s) + 10)) >"$KEYS.later"
      ;;
    *)
      # Asking again would only raise alarms, until there is another rotation. claim-used: if it was not you, tell the provider at once.
      echo "no new key: $code" >&2
      echo "$2" >"$KEYS.refused"
      ;;
  esac
)

# may_claim <version>: not where that was refused, unless the keys are others since, and not too soon after another try
may_claim() {
  [ -n "$1" ] || return 1
  if [ "$KEYS.refused" -nt "$KEYS" ] && [ "$(cat "$KEYS.refused")" = "$1" ]; then return 1; fi
  [ "$(date +%s)" -ge "$(cat "$KEYS.later" 2>/dev/null || echo 0)" ]
}

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
successor=$(grep -i '^keyturn-key-rotation:' "$work/headers" | sed -n 's/.*successor=\([0-9]*\).*/\1/p')
if may_claim "$successor"; then claim "$current" "$successor"; fi
[ "$status" != 401 ]
