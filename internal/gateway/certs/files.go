package certs

import (
	"crypto/tls"
	"fmt"
	"os"
	"sync"
	"time"
)

// File is a certificate with its chain and its key, both PEM. They may be one file.
type File struct{ Certificate, Key string }

// ownCerts are certificates from files.
type ownCerts struct {
	every time.Duration
	told  func(string, error)

	mu     sync.Mutex
	looked time.Time
	list   []ownCert
}

type ownCert struct {
	file File
	// seen is what the files looked like when they were read, good or not.
	seen string
	cert *tls.Certificate
}

func newOwn(files []File, every time.Duration, told func(string, error)) (*ownCerts, error) {
	o := &ownCerts{every: every, told: told, looked: time.Now()}
	for _, file := range files {
		one := ownCert{file: file, seen: file.look()}
		if err := one.read(); err != nil {
			return nil, err
		}
		o.list = append(o.list, one)
	}
	return o, nil
}

// look tells whether files have changed; it differs then.
func (f File) look() string {
	var all string
	for _, path := range []string{f.Certificate, f.Key} {
		info, err := os.Stat(path) // follows links, which renewals are often made with
		if err != nil {
			return err.Error()
		}
		all += fmt.Sprint(info.ModTime().UnixNano(), info.Size(), " ")
	}
	return all
}

func (c *ownCert) read() error {
	cert, err := tls.LoadX509KeyPair(c.file.Certificate, c.file.Key)
	if err != nil {
		return fmt.Errorf("reading the certificate %s: %w", c.file.Certificate, err)
	}
	c.cert = &cert
	return nil
}

// find returns the first certificate for a name, or the first of all for clients
// that name none; nil if there is none. Files that have changed are read again; what
// can't be read leaves the old one in place.
func (o *ownCerts) find(name string, now time.Time) *tls.Certificate {
	o.mu.Lock()
	defer o.mu.Unlock()
	if now.Sub(o.looked) >= o.every {
		o.looked = now
		o.reload()
	}
	for i := range o.list {
		if cert := o.list[i].cert; name == "" || cert.Leaf.VerifyHostname(name) == nil {
			return cert
		}
	}
	return nil
}

func (o *ownCerts) reload() {
	for i := range o.list {
		one := &o.list[i]
		if seen := one.file.look(); seen != one.seen {
			one.seen = seen
			if err := one.read(); err != nil {
				o.told(one.file.Certificate, err)
			}
		}
	}
}
