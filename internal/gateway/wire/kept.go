package wire

import (
	"context"
	"net"
	"sync"

	"golang.org/x/sys/unix"
)

// kept is a connection to an instance.
type kept struct {
	stream
	key    string
	rd, wr alarm
	since  int64 // when it was put aside, Unix time in nanoseconds
	used   bool  // it has carried an exchange before
	poll   poll
}

// usable reports whether nothing has arrived while it was not used, its end included.
func (k *kept) usable() bool { return k.raw == nil || !k.poll.ready(k.raw, unix.POLLIN|unix.POLLRDHUP) }

// store keeps connections to instances, the last used on top.
type store struct {
	mu    sync.Mutex
	total int
	keys  map[string][]*kept
}

// take returns the connection under a key that was used last; nil if there is none.
func (t *store) take(key string) *kept {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := t.keys[key]
	if len(list) == 0 {
		return nil
	}
	last := len(list) - 1
	k := list[last]
	list[last] = nil
	t.keys[key] = list[:last]
	t.total--
	return k
}

// put reports false where there are enough.
func (t *store) put(k *kept, limit, perKey int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := t.keys[k.key]
	if t.total >= limit || len(list) >= perKey {
		return false
	}
	t.keys[k.key] = append(list, k)
	t.total++
	return true
}

// drop closes what was put aside before a time, under one key or (with "") under all.
func (t *store) drop(key string, before int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for name, list := range t.keys {
		if key != "" && name != key {
			continue
		}
		// The longest unused come first.
		n := 0
		for n < len(list) && list[n].since <= before {
			_ = list[n].conn.Close()
			n++
		}
		t.total -= n
		if n == len(list) {
			delete(t.keys, name)
		} else if n > 0 {
			t.keys[name] = append([]*kept(nil), list[n:]...)
		}
	}
}

// connect returns a connection to the instance of a pass: a kept one that nothing
// speaks against, or a new one.
func (s *Server) connect(ctx context.Context, p *Pass, fresh bool) (*kept, error) {
	for !fresh {
		k := s.store.take(p.Key)
		if k == nil {
			break
		}
		if k.usable() {
			return k, nil
		}
		_ = k.conn.Close()
	}
	return s.dial(ctx, p)
}

func (s *Server) dial(ctx context.Context, p *Pass) (*kept, error) {
	ctx, cancel := context.WithTimeout(ctx, s.o.DialTimeout)
	defer cancel()
	conn, err := s.o.Dial(ctx, "tcp", p.Address)
	if err != nil {
		return nil, err
	}
	return s.newKept(conn, p.Key), nil
}

func (s *Server) newKept(conn net.Conn, key string) *kept {
	k := &kept{key: key}
	k.init(conn, &s.buffers)
	return k
}

// keep puts a connection aside whose exchange has ended well.
func (s *Server) keep(k *kept) {
	k.release()
	k.used, k.since = true, s.lives.now.Load()
	if !s.store.put(k, s.o.MaxKept, s.o.MaxKeptPerKey) {
		_ = k.conn.Close()
	}
}

// CloseIdle closes the connections that are kept under a key and not in use.
func (s *Server) CloseIdle(key string) { s.store.drop(key, maxTime) }

const maxTime = int64(^uint64(0) >> 1)

func (s *Server) tidy() { s.store.drop("", s.lives.after(-s.o.KeepFor)) }
