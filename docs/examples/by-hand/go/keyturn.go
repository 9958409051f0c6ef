// Package main follows the rotations of an API key with the standard library alone.
//
// The claim is repeatable: a key pair is made and stored before the new key is asked for, and the new key comes encrypted to it
// (a JWE, RFC 7516: ECDH-ES and A256GCM). Whoever asks again with the same pair within ten minutes gets the same answer, so a crash or
// a lost connection loses no key.
package main

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"
)

// keys is what the file holds: {"current": "<the key>"} to begin with.
type keys struct {
	Current  string `json:"current"`
	Previous string `json:"previous,omitempty"`
	// Pending is the private half of the pair of a claim that is under way.
	Pending []byte `json:"pending,omitempty"`
}

// Transport adds the key to requests, and takes on its successor. It is for one process; use @keyturn/client or the agent for more.
type Transport struct {
	Path string // the file with the keys
	API  string // the control plane
	mu   sync.Mutex
	// the key and its successor that was refused: asking again would only raise alarms
	refused [2]string
	asked   time.Time
}

var successorOf = regexp.MustCompile(`\bsuccessor=(\d+)`)

func (t *Transport) read() (k keys, err error) {
	data, err := os.ReadFile(t.Path)
	if err == nil && json.Unmarshal(data, &k) != nil {
		err = errors.New("the file with the keys holds something else") // the decoder's own error quotes it
	}
	return k, err
}

// write replaces the file as a whole: beside it, to the disk, then in its place.
func (t *Transport) write(k keys) error {
	data, err := json.Marshal(k)
	if err != nil {
		return err
	}
	file, err := os.OpenFile(t.Path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	err = errors.Join(err, file.Sync(), file.Close())
	if err != nil {
		return err
	}
	return os.Rename(t.Path+".new", t.Path)
}

func send(request *http.Request, key string) (*http.Response, error) {
	with := request.Clone(request.Context())
	if request.GetBody != nil {
		body, err := request.GetBody()
		if err != nil {
			return nil, err
		}
		with.Body = body
	}
	with.Header.Set("Authorization", "Bearer "+key)
	return http.DefaultTransport.RoundTrip(with)
}

// RoundTrip sends a request; with the other key when this one is refused and the body can be read again.
func (t *Transport) RoundTrip(request *http.Request) (*http.Response, error) {
	t.mu.Lock()
	k, err := t.read()
	t.mu.Unlock()
	if err != nil {
		return nil, err
	}
	response, err := send(request, k.Current)
	if err != nil {
		return nil, err
	}
	again := request.Body == nil || request.GetBody != nil
	if response.StatusCode == http.StatusUnauthorized && k.Previous != "" && again {
		other, err := send(request, k.Previous)
		if err == nil && other.StatusCode != http.StatusUnauthorized {
			response.Body.Close()
			t.mu.Lock()
			defer t.mu.Unlock()
			return other, t.write(keys{Current: k.Previous, Previous: k.Current})
		}
		if err == nil {
			other.Body.Close()
		}
	}
	if notice := successorOf.FindStringSubmatch(response.Header.Get("Keyturn-Key-Rotation")); notice != nil {
		if err := t.claim(k.Current, notice[1]); err != nil {
			fmt.Fprintln(os.Stderr, "no new key:", err)
		}
	}
	return response, nil
}

// claim takes on the successor of a key, which has that version.
func (t *Transport) claim(old, successor string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	k, err := t.read()
	if err != nil || k.Current != old || t.refused == [2]string{old, successor} || time.Since(t.asked) < 10*time.Second {
		return err
	}
	t.asked = time.Now()
	var pair *ecdh.PrivateKey
	if k.Pending != nil {
		pair, err = ecdh.P256().NewPrivateKey(k.Pending)
	} else if pair, err = ecdh.P256().GenerateKey(rand.Reader); err == nil {
		k.Pending = pair.Bytes()
		err = t.write(k) // before it is sent
	}
	if err != nil {
		return err
	}
	point := pair.PublicKey().Bytes() // 4, x, y
	body, err := json.Marshal(map[string]any{"recipient": map[string]string{
		"kty": "EC", "crv": "P-256", "x": encode(point[1:33]), "y": encode(point[33:]),
	}})
	if err != nil {
		return err
	}
	request, err := http.NewRequest(http.MethodPost, t.API+"/v1/successor", bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := send(request, old)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	var answer struct{ JWE, Code string }
	if err := json.NewDecoder(io.LimitReader(response.Body, 1<<16)).Decode(&answer); err != nil {
		return errors.New("the answer is not JSON")
	}
	if response.StatusCode != http.StatusOK {
		later := response.StatusCode >= 500 || response.StatusCode == http.StatusTooManyRequests || answer.Code == "no-successor"
		if !later {
			t.refused = [2]string{old, successor} // claim-used: if it was not you, tell the provider at once
		}
		return errors.New(answer.Code)
	}
	token, err := decrypt(answer.JWE, pair)
	if err != nil {
		return err
	}
	return t.write(keys{Current: token, Previous: old})
}

var encode = base64.RawURLEncoding.EncodeToString

// decrypt opens a compact JWE (RFC 7516) of ECDH-ES (RFC 7518, section 4.6) and A256GCM.
func decrypt(jwe string, pair *ecdh.PrivateKey) (string, error) {
	parts := strings.Split(jwe, ".")
	if len(parts) != 5 {
		return "", errors.New("the answer is no JWE")
	}
	decoded := make([][]byte, len(parts))
	for i, part := range parts {
		var err error
		if decoded[i], err = base64.RawURLEncoding.DecodeString(part); err != nil {
			return "", errors.New("the answer is no JWE")
		}
	}
	var header struct {
		Alg, Enc string
		Epk      struct{ X, Y string }
	}
	if json.Unmarshal(decoded[0], &header) != nil || header.Alg != "ECDH-ES" || header.Enc != "A256GCM" {
		return "", errors.New("the JWE is of another kind")
	}
	x, _ := base64.RawURLEncoding.DecodeString(header.Epk.X)
	y, _ := base64.RawURLEncoding.DecodeString(header.Epk.Y)
	sender, err := ecdh.P256().NewPublicKey(append(append([]byte{4}, x...), y...))
	if err != nil {
		return "", err
	}
	shared, err := pair.ECDH(sender)
	if err != nil {
		return "", err
	}
	// Concat KDF (NIST SP 800-56A): one round is enough for 256 bits.
	info := binary.BigEndian.AppendUint32(nil, 1)
	info = append(info, shared...)
	info = binary.BigEndian.AppendUint32(info, uint32(len(header.Enc)))
	info = append(info, header.Enc...)
	info = binary.BigEndian.AppendUint32(info, 0) // apu
	info = binary.BigEndian.AppendUint32(info, 0) // apv
	info = binary.BigEndian.AppendUint32(info, 256)
	key := sha256.Sum256(info)
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return "", err
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil || len(decoded[2]) != gcm.NonceSize() {
		return "", errors.New("the JWE is of another kind")
	}
	token, err := gcm.Open(nil, decoded[2], append(decoded[3], decoded[4]...), []byte(parts[0]))
	return string(token), err
}
