package api

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"net/http"
	"strconv"
	"strings"

	"dormouse/internal/fleet"
)

// idempotencyKey reads the Idempotency-Key header and hashes the request that
// it stands for. Without the header there is no key.
func (s *server) idempotencyKey(r *http.Request, body []byte) (IdempotencyKey, error) {
	values := r.Header.Values("Idempotency-Key")
	if len(values) == 0 {
		return IdempotencyKey{}, nil
	}
	key := values[0]
	if len(values) > 1 || len(key) < 1 || len(key) > 255 || strings.ContainsFunc(key, func(c rune) bool { return c < ' ' || c > '~' }) {
		return IdempotencyKey{}, fleet.InvalidField("header.Idempotency-Key",
			"the Idempotency-Key header must be given once, as 1 to 255 printable ASCII characters")
	}
	var h hash.Hash
	if len(s.HashKey) > 0 {
		h = hmac.New(sha256.New, s.HashKey)
	} else {
		h = sha256.New()
	}
	for _, part := range []string{r.Method, r.URL.EscapedPath(), r.URL.RawQuery} {
		h.Write([]byte(part))
		h.Write([]byte{'\n'})
	}
	h.Write(body)
	return IdempotencyKey{Key: key, RequestHash: hex.EncodeToString(h.Sum(nil))}, nil
}

// ifMatch reads the version that a conditional write expects; 0 is any. A tag
// that no version can have is stale at once (RFC 9110, section 13.1.1).
func ifMatch(r *http.Request) (int64, error) {
	values := r.Header.Values("If-Match")
	if len(values) == 0 {
		return 0, nil
	}
	tag := strings.TrimSpace(values[0])
	if len(values) > 1 || strings.Contains(tag, ",") {
		return 0, fleet.InvalidField("header.If-Match", "the If-Match header must name one ETag, as an earlier answer gave it")
	}
	if tag == "*" {
		return 0, nil
	}
	bare := strings.TrimPrefix(tag, "W/")
	if len(bare) < 2 || bare[0] != '"' || bare[len(bare)-1] != '"' {
		return 0, fleet.InvalidField("header.If-Match", `the If-Match header must be an ETag in its quotes, such as "7", or *`)
	}
	version, err := strconv.ParseInt(bare[1:len(bare)-1], 10, 64)
	if err != nil || version < 1 || etag(version) != tag {
		return 0, httpProblem(http.StatusPreconditionFailed, "the If-Match header names no version: read the resource again")
	}
	return version, nil
}

// noVersion refuses a condition on what has no version to compare.
func noVersion(r *http.Request) error {
	if _, err := ifMatch(r); err != nil {
		return err
	}
	if m := r.Header.Get("If-Match"); m != "" && strings.TrimSpace(m) != "*" {
		return httpProblem(http.StatusPreconditionFailed, "this resource has no versions: leave the If-Match header out")
	}
	return nil
}

func etag(version int64) string { return `"` + strconv.FormatInt(version, 10) + `"` }
