package imagebuilder

import (
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"strings"

	"dormouse/internal/fleet"
)

// Trust are the keys of which one must have signed a source for it to be taken;
// where there are none, every source is. Debian's packages are apt's to check.
type Trust []ed25519.PublicKey

// ReadTrust reads public keys (Ed25519, PEM blocks of the type PUBLIC KEY, as
// `openssl pkey -pubout` writes them). A file without any is an error.
func ReadTrust(path string) (Trust, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the keys that sources are signed with: %w", err)
	}
	var t Trust
	for block, rest := pem.Decode(raw); block != nil; block, rest = pem.Decode(rest) {
		key, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("reading the keys that sources are signed with: %w", err)
		}
		public, ok := key.(ed25519.PublicKey)
		if !ok {
			return nil, fmt.Errorf("reading the keys that sources are signed with: %s holds a %T: use Ed25519", path, key)
		}
		t = append(t, public)
	}
	if len(t) == 0 {
		return nil, fmt.Errorf("reading the keys that sources are signed with: %s holds no PEM block of the type PUBLIC KEY", path)
	}
	return t, nil
}

// SignedText is what a signature is over: the SHA-256 of the source as it was
// sent, or of an image in a registry, and of what was laid over it; "" for nothing.
func SignedText(source, overlay string) []byte {
	return fmt.Appendf(nil, "dormouse package\nsource %s\noverlay %s\n", source, overlay)
}

// check tells whether one of the keys has signed the text; signature is in base64.
func (t Trust) check(source, overlay, signature string) error {
	if len(t) == 0 {
		return nil
	}
	if signature == "" {
		return fleet.InvalidField("signature", "this server takes signed sources only: give a signature of %q (cloudctl package create --sign-key FILE makes one)", SignedText(source, overlay))
	}
	raw, err := base64.StdEncoding.DecodeString(signature)
	if err != nil || len(raw) != ed25519.SignatureSize {
		return fleet.InvalidField("signature", "the signature is not %d bytes in base64", ed25519.SignatureSize)
	}
	for _, key := range t {
		if ed25519.Verify(key, SignedText(source, overlay), raw) {
			return nil
		}
	}
	return fleet.InvalidField("signature", "the signature is of none of the keys that this server trusts, or of something else than %q", SignedText(source, overlay))
}

// watch has the import check the signature of what is read from r and of the
// overlay, and returns what to read instead of r.
func (t Trust) watch(o *ImportOptions, r io.Reader) io.Reader {
	if len(t) == 0 {
		return r
	}
	var source *hashed
	if r != nil {
		source = newHashed(r)
		r = source
	}
	t.require(o, source.sum)
	return r
}

// require has the import check a signature of what source tells and of the overlay.
func (t Trust) require(o *ImportOptions, source func() (string, error)) {
	var overlay *hashed
	if o.Overlay != nil {
		overlay = newHashed(o.Overlay)
		o.Overlay = overlay
	}
	signature := o.Signature
	o.signed = func() error {
		under, err := source()
		if err != nil {
			return err
		}
		over, err := overlay.sum()
		if err != nil {
			return err
		}
		return t.check(under, over, signature)
	}
}

// watchRef does so with an image in a registry.
func (t Trust) watchRef(o *ImportOptions, ref string) error {
	if len(t) == 0 {
		return nil
	}
	_, digest, ok := strings.Cut(ref, "@sha256:")
	if !ok || !digestPattern.MatchString(digest) {
		return fleet.InvalidField("oci", "this server takes signed sources only: name the image by its digest, REGISTRY/NAME@sha256:…, which is what the signature is of")
	}
	t.require(o, func() (string, error) { return digest, nil })
	return nil
}

// hashed is a reader that knows the SHA-256 of all of it in the end.
type hashed struct {
	r io.Reader
	h hash.Hash
}

func newHashed(r io.Reader) *hashed {
	h := sha256.New()
	return &hashed{r: io.TeeReader(r, h), h: h}
}

// Read implements io.Reader.
func (h *hashed) Read(p []byte) (int, error) { return h.r.Read(p) }

// sum reads what nobody has, and returns the digest; "" of nothing.
func (h *hashed) sum() (string, error) {
	if h == nil {
		return "", nil
	}
	if _, err := io.Copy(io.Discard, h); err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	return hex.EncodeToString(h.h.Sum(nil)), nil
}
