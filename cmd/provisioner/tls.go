package main

import (
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"dormouse/internal/fleet"
	"dormouse/internal/gateway"
	"dormouse/internal/gateway/certs"
)

// tlsConfig is what the command line says about TLS.
type tlsConfig struct {
	listen    []string
	files     []string
	directory string
	roots     string
	email     string
}

func (c *tlsConfig) bind(flags *pflag.FlagSet) {
	flags.StringSliceVar(&c.listen, "gateway-tls-listen", nil, "addresses at which the gateway speaks TLS (HTTP/1.1 and HTTP/2), such as 0.0.0.0:443; without them it does not")
	flags.StringSliceVar(&c.files, "gateway-cert", nil, "certificates of your own, each as CERTIFICATE.pem:KEY.pem; read again when they change")
	flags.StringVar(&c.directory, "acme-directory", "", "URL of an ACME directory (such as https://acme-v02.api.letsencrypt.org/directory): certificates are asked for when a name is first visited, only for names of installations")
	flags.StringVar(&c.roots, "acme-roots", "", "file of the certificates (PEM) that the ACME directory is trusted by (default: the system's)")
	flags.StringVar(&c.email, "acme-email", "", "address that the certificate authority is told")
}

func (c *tlsConfig) check() error {
	switch {
	case len(c.listen) == 0 && (len(c.files) > 0 || c.directory != ""):
		return fleet.Errorf(fleet.KindInvalid, "certificates are of no use without --gateway-tls-listen: say where TLS is spoken, such as 0.0.0.0:443")
	case len(c.listen) > 0 && len(c.files) == 0 && c.directory == "":
		return fleet.Errorf(fleet.KindInvalid, "--gateway-tls-listen needs certificates: give --gateway-cert or --acme-directory")
	}
	for _, address := range c.listen {
		if _, _, err := net.SplitHostPort(address); err != nil {
			return fleet.Errorf(fleet.KindInvalid, "--gateway-tls-listen %q: give HOST:PORT, such as 0.0.0.0:443: %w", address, err)
		}
	}
	_, err := c.ownFiles()
	return err
}

func (c *tlsConfig) ownFiles() ([]certs.File, error) {
	var out []certs.File
	for _, pair := range c.files {
		certificate, key, ok := strings.Cut(pair, ":")
		if !ok || certificate == "" || key == "" {
			return nil, fleet.Errorf(fleet.KindInvalid, "--gateway-cert %q: give CERTIFICATE.pem:KEY.pem", pair)
		}
		out = append(out, certs.File{Certificate: certificate, Key: key})
	}
	return out, nil
}

// openTLS adds the gateway's TLS listeners.
func (s *server) openTLS(ctx context.Context, listeners *[]gateway.Listener) error {
	c := s.c.tls
	if len(c.listen) == 0 {
		return nil
	}
	files, err := c.ownFiles()
	if err != nil {
		return err
	}
	o := certs.Options{Files: files, Directory: c.directory, Email: c.email, Storage: s.dir.join("certificates"),
		Allowed: s.visits.nameExists, Told: s.certificateTold}
	host, port, err := net.SplitHostPort(c.listen[0])
	if err != nil {
		return err
	}
	o.Host = host
	if o.Port, err = strconv.Atoi(port); err != nil {
		return fleet.Errorf(fleet.KindInvalid, "--gateway-tls-listen %q: the port is no number", c.listen[0])
	}
	if c.roots != "" {
		pem, err := os.ReadFile(c.roots)
		if err != nil {
			return fmt.Errorf("reading --acme-roots: %w", err)
		}
		o.Roots = x509.NewCertPool()
		if !o.Roots.AppendCertsFromPEM(pem) {
			return fleet.Errorf(fleet.KindInvalid, "--acme-roots %s has no certificate in PEM form", c.roots)
		}
	}
	shown, err := certs.New(o)
	if err != nil {
		return fmt.Errorf("opening the gateway's certificates: %w", err)
	}
	s.background.Go(func() { <-ctx.Done(); shown.Close() })
	for _, address := range c.listen {
		l, err := s.open("gateway (TLS)", address)
		if err != nil {
			return err
		}
		*listeners = append(*listeners, gateway.Listener{Listener: l, TLS: shown.TLSConfig()})
	}
	return nil
}

func (s *server) certificateTold(name string, err error) {
	log := s.log.WithField("name", name)
	if err != nil {
		log.WithError(err).Warn("no certificate for a name of the gateway")
		return
	}
	log.Info("a certificate was issued")
}

// nameExists is nil for the names of installations: no others get a certificate.
func (v *visits) nameExists(ctx context.Context, name string) error {
	_, err := v.Route(ctx, name)
	return err
}
