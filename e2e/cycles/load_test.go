package cycles

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// patience is how long a request may take. The gateway holds one for 30 s at most.
const patience = 90 * time.Second

// visit is one request and what became of it.
type visit struct {
	id             string
	sent, answered time.Time
	status         int
	// later: it was refused with a 503 that says when to come again.
	later bool
	err   error
	tally
}

// tally is what the guest answers.
type tally struct {
	Run   string `json:"run"`
	Count int64  `json:"count"`
}

func (v visit) acknowledged() bool { return v.err == nil && v.status == http.StatusCreated }

func (v visit) String() string {
	return fmt.Sprintf("%s: sent %s, %d after %s: %v", v.id, v.sent.Format("15:04:05.000"), v.status, v.answered.Sub(v.sent), v.err)
}

// load sends requests at a steady rate.
type load struct {
	gateway, host string
	rate          int

	// begun counts all requests, so that no ID is sent twice.
	begun atomic.Int64

	mu     sync.Mutex
	visits []visit
}

// sources is how many networks the requests come from: what one network may wake is bounded.
const sources = 200

// client sends each request on a connection of its own, so that nothing is ever
// sent again by the library either.
func (l *load) client(n int) *http.Client {
	from := &net.TCPAddr{IP: net.IPv4(127, 1, byte(n%sources), 1)}
	dialer := net.Dialer{LocalAddr: from}
	return &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "tcp", l.gateway)
		}}}
}

// run sends until ctx ends, and returns when all was answered.
func (l *load) run(ctx context.Context) {
	clients := make([]*http.Client, sources)
	for n := range clients {
		clients[n] = l.client(n)
	}
	var all sync.WaitGroup
	defer all.Wait()
	interval := time.Second / time.Duration(l.rate)
	begin := time.Now()
	for n := 0; ; n++ {
		if err := sleep(ctx, time.Until(begin.Add(time.Duration(n)*interval))); err != nil {
			return
		}
		all.Go(func() {
			v := l.post(clients[n%sources], fmt.Sprintf("id-%d", l.begun.Add(1)))
			l.mu.Lock()
			l.visits = append(l.visits, v)
			l.mu.Unlock()
		})
	}
}

func (l *load) post(c *http.Client, id string) visit {
	v := visit{id: id, sent: time.Now()}
	request, err := http.NewRequest(http.MethodPost, "http://"+l.host+"/ledger/"+id, nil)
	if err != nil {
		v.err = err
		return v
	}
	answer, err := c.Do(request)
	v.answered = time.Now()
	if err != nil {
		v.err = err
		return v
	}
	defer answer.Body.Close()
	v.status = answer.StatusCode
	v.later = answer.StatusCode == http.StatusServiceUnavailable && answer.Header.Get("Retry-After") != ""
	if v.acknowledged() {
		v.err = json.NewDecoder(answer.Body).Decode(&v.tally)
		v.answered = time.Now()
	}
	return v
}

func (l *load) all() []visit {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.visits
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
