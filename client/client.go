package client

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const (
	apiPrefix        = "/api/v1"
	defaultUserAgent = "dormouse-client"
	defaultAttempts  = 5
	// A little more than the server gives itself, so that its own words arrive.
	defaultTimeout  = 45 * time.Second
	defaultLongPoll = 30 * time.Second
	// maxWait is the longest that the server holds a request.
	maxWait            = time.Minute
	defaultBackoff     = 100 * time.Millisecond
	defaultBackoffMax  = 3 * time.Second
	dialTimeout        = 10 * time.Second
	maxAnswerBytes     = 64 << 20
	maxProblemBytes    = 1 << 20
	longPollGraceExtra = 15 * time.Second
)

// Options sets up a Client. The zero value is good.
type Options struct {
	// HTTPClient sends the requests. It must have no Timeout, which would cut
	// long polls and logs. Left out, it is one of the client's own.
	HTTPClient *http.Client
	// UserAgent is sent with every request; "dormouse-client" if empty.
	UserAgent string
	// Attempts is how often a request is sent at most when the server can't be
	// reached or asks to come again; 5 if 0. Operations.Follow and Rollouts.Follow
	// are not bound by it.
	Attempts int
	// Timeout bounds one attempt of a request that is answered at once; 45 s if
	// 0. Long polls, uploads and logs have only their context.
	Timeout time.Duration
	// LongPoll is how long Operations.Follow asks the server to hold a request, a minute
	// at the most; 30 s if 0.
	LongPoll time.Duration
	// Backoff and BackoffMax are the first and the longest pause before a
	// repeat; it doubles, with jitter, in between. 100 ms and 3 s if 0.
	Backoff, BackoffMax time.Duration
	// OnRetry, if set, is called before each pause, in the caller's goroutine.
	OnRetry func(Retry)
}

// Retry tells that a request is going to be repeated.
type Retry struct {
	// Attempt counts the tries that failed, in a row, from 1.
	Attempt int
	// After is the pause before the next one.
	After time.Duration
	// Err is why.
	Err error
}

// Client speaks to one Dormouse server. It is safe for use by several goroutines.
type Client struct {
	Installations *Installations
	Groups        *Groups
	Rollouts      *Rollouts
	Hosts         *Hosts
	Images        *Images
	Kernels       *Kernels
	Instances     *Instances
	Clusters      *Clusters
	Packages      *Packages
	Operations    *Operations

	base    *url.URL
	http    *http.Client
	options Options
}

// New returns a client of the server at baseURL, such as
// http://127.0.0.1:8075. It sends nothing yet.
func New(baseURL string, options Options) (*Client, error) {
	base, err := url.Parse(strings.TrimRight(baseURL, "/"))
	switch {
	case err != nil && strings.Contains(baseURL, "://"), baseURL == "":
		return nil, fmt.Errorf("reading the server's address %q: write it like http://127.0.0.1:8075", baseURL)
	case err != nil || base.Scheme == "" || base.Host == "" && base.Opaque != "":
		return nil, fmt.Errorf("reading the server's address %q: it has no scheme; write http://%s", baseURL, baseURL)
	case base.Scheme != "http" && base.Scheme != "https" || base.Host == "":
		return nil, fmt.Errorf("reading the server's address %q: only http:// and https:// are spoken, followed by a host", baseURL)
	case base.RawQuery != "" || base.Fragment != "":
		return nil, fmt.Errorf("reading the server's address %q: leave out what follows the path", baseURL)
	}
	if options.HTTPClient == nil {
		options.HTTPClient = &http.Client{Transport: newTransport()}
	}
	setDefault(&options.UserAgent, defaultUserAgent)
	setDefault(&options.Attempts, defaultAttempts)
	setDefault(&options.Timeout, defaultTimeout)
	setDefault(&options.LongPoll, defaultLongPoll)
	options.LongPoll = min(options.LongPoll, maxWait)
	setDefault(&options.Backoff, defaultBackoff)
	setDefault(&options.BackoffMax, defaultBackoffMax)

	c := &Client{base: base, http: options.HTTPClient, options: options}
	c.Installations = &Installations{c}
	c.Groups = &Groups{c}
	c.Rollouts = &Rollouts{c}
	c.Hosts = &Hosts{c}
	c.Images = &Images{c}
	c.Kernels = &Kernels{c}
	c.Instances = &Instances{c}
	c.Clusters = &Clusters{c}
	c.Packages = &Packages{c}
	c.Operations = &Operations{c}
	return c, nil
}

// newTransport is the standard library's default with a shorter wait for a
// connection, so that a server that is gone is noticed while somebody looks.
func newTransport() *http.Transport {
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}).DialContext,
		ForceAttemptHTTP2:     true,
		MaxIdleConnsPerHost:   16,
		IdleConnTimeout:       90 * time.Second,
		TLSHandshakeTimeout:   dialTimeout,
		ExpectContinueTimeout: time.Second,
	}
}

// BaseURL returns the server's address without a password that may be in it.
func (c *Client) BaseURL() string { return c.base.Redacted() }

// Ready returns nil once the server accepts work. It asks once, without repeats.
func (c *Client) Ready(ctx context.Context) error {
	return c.do(ctx, request{method: http.MethodGet, path: "/readyz", root: true, attempts: 1}, nil)
}

func setDefault[T comparable](value *T, standard T) {
	var zero T
	if *value == zero {
		*value = standard
	}
}
