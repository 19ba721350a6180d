package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3"
	"go.uber.org/zap"
)

// Options of Certs. What is zero takes the value named beside it.
type Options struct {
	// Files are the operator's own certificates; for names that they cover, nothing is asked for.
	Files []File
	// ReloadEvery is how often files are looked at, while clients come: 10 s.
	ReloadEvery time.Duration

	// Directory is the URL of an ACME directory; without it there is nothing on demand.
	Directory string
	// Roots are trusted for the directory's own certificate; nil for the system's.
	Roots *x509.CertPool
	// Email is told the certificate authority; it may be empty.
	Email string
	// Storage is a directory for keys and certificates, made where it is missing, for nobody else to read.
	Storage string
	// Allowed refuses names that must not have a certificate, with an error. It is
	// asked at each first handshake of a name, and must be quick.
	Allowed func(ctx context.Context, name string) error
	// Host and Port are where the challenge arrives, which is where the certificates
	// are shown: port 443, as the authority sees it, leads there. Port 443.
	Host string
	Port int
	// PerName is the least time between two attempts for one name: 10 min.
	PerName time.Duration
	// PerHour bounds the attempts for all names within an hour: 50.
	PerHour int

	// Told, if set, is told of certificates that were issued (err is nil) or could not be, or not be read.
	Told func(name string, err error)
}

// Certs is a source of certificates. It must be closed.
type Certs struct {
	o     Options
	own   *ownCerts
	limit *limiter
	cache *certmagic.Cache // nil where there is nothing on demand
	magic *certmagic.Config
}

// issueTimeout bounds one certificate's issue. A client may have given up before; its next try finds it.
const issueTimeout = 2 * time.Minute

// New reads the files, all of which must be good, and prepares the rest. It talks to nobody yet.
func New(o Options) (*Certs, error) {
	if o.ReloadEvery == 0 {
		o.ReloadEvery = 10 * time.Second
	}
	if o.PerName == 0 {
		o.PerName = 10 * time.Minute
	}
	if o.PerHour == 0 {
		o.PerHour = 50
	}
	if o.Told == nil {
		o.Told = func(string, error) {}
	}
	own, err := newOwn(o.Files, o.ReloadEvery, o.Told)
	if err != nil {
		return nil, err
	}
	c := &Certs{o: o, own: own, limit: newLimiter(o.PerName, o.PerHour)}
	if o.Directory == "" {
		return c, nil
	}
	if o.Storage == "" || o.Allowed == nil {
		return nil, errors.New("certificates on demand need a directory to keep them in, and somebody who says which names are allowed")
	}
	if err := os.MkdirAll(o.Storage, 0o700); err != nil {
		return nil, fmt.Errorf("making a directory for certificates: %w", err)
	}
	c.onDemand()
	return c, nil
}

func (c *Certs) onDemand() {
	log := zap.NewNop() // what matters is told by Told
	c.cache = certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert: func(certmagic.Certificate) (*certmagic.Config, error) { return c.magic, nil },
		Capacity:         20000,
		Logger:           log,
	})
	c.magic = certmagic.New(c.cache, certmagic.Config{
		Storage:  &certmagic.FileStorage{Path: c.o.Storage},
		OnDemand: &certmagic.OnDemandConfig{DecisionFunc: c.allowed},
		Logger:   log,
		OnEvent:  c.event,
	})
	c.magic.Issuers = []certmagic.Issuer{&issuer{limit: c.limit, ACMEIssuer: certmagic.NewACMEIssuer(c.magic, certmagic.ACMEIssuer{
		CA: c.o.Directory, Email: c.o.Email, Agreed: true, TrustedRoots: c.o.Roots,
		DisableHTTPChallenge: true, DisableDistributedSolvers: true,
		ListenHost: c.o.Host, AltTLSALPNPort: c.o.Port, CertObtainTimeout: issueTimeout, Logger: log,
	})}}
}

// issuer asks the authority as often as the limits allow. An attempt that fails is
// not made again by itself: a client that comes later is reason enough.
type issuer struct {
	*certmagic.ACMEIssuer
	limit *limiter
}

func (i *issuer) Issue(ctx context.Context, csr *x509.CertificateRequest) (*certmagic.IssuedCertificate, error) {
	if err := i.limit.attempt(strings.Join(csr.DNSNames, " "), time.Now()); err != nil {
		return nil, certmagic.ErrNoRetry{Err: err}
	}
	issued, err := i.ACMEIssuer.Issue(ctx, csr)
	if err != nil {
		return nil, certmagic.ErrNoRetry{Err: err}
	}
	return issued, nil
}

func (c *Certs) allowed(ctx context.Context, name string) error {
	if !hostName(name) {
		return fmt.Errorf("%q is no host name", name)
	}
	return c.o.Allowed(ctx, name)
}

// hostName takes names of at least two labels, in lower case, without wildcards.
func hostName(name string) bool {
	labels := strings.Split(name, ".")
	if len(name) > 253 || len(labels) < 2 {
		return false
	}
	return !slices.ContainsFunc(labels, func(label string) bool {
		return label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' ||
			strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-") != ""
	})
}

func (c *Certs) event(_ context.Context, event string, data map[string]any) error {
	name, _ := data["identifier"].(string)
	switch event {
	case "cert_obtained":
		c.o.Told(name, nil)
	case "cert_failed":
		err, _ := data["error"].(error)
		c.o.Told(name, fmt.Errorf("getting a certificate: %w", err))
	}
	return nil
}

// TLSConfig returns a configuration that shows the certificates, and answers challenges.
func (c *Certs) TLSConfig() *tls.Config {
	config := &tls.Config{GetCertificate: c.get, MinVersion: tls.VersionTLS12}
	if c.magic != nil {
		config.NextProtos = []string{acmez.ACMETLS1Protocol}
	}
	return config
}

func (c *Certs) get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if c.magic != nil && slices.Equal(hello.SupportedProtos, []string{acmez.ACMETLS1Protocol}) {
		return c.magic.GetCertificate(hello)
	}
	if cert := c.own.find(hello.ServerName, time.Now()); cert != nil {
		return cert, nil
	}
	if c.magic == nil || hello.ServerName == "" {
		return nil, fmt.Errorf("no certificate for %q", hello.ServerName)
	}
	// A client that gives up does not end what others wait for, too.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(hello.Context()), issueTimeout)
	defer cancel()
	return c.magic.GetCertificateWithContext(ctx, hello)
}

// Close ends renewals under way.
func (c *Certs) Close() {
	if c.cache != nil {
		c.cache.Stop()
	}
}
