package chaos

import (
	"context"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// killer breaks what runs. What it draws depends on nothing but the seed.
type killer struct {
	run *run
	rng *rand.Rand
	// busy are the provisioners that are dead or stopped at this moment.
	mu   sync.Mutex
	busy [processes]bool
	over bool
	wg   sync.WaitGroup

	kills, stops, hiccups, sessions, crashes, restarts int
}

// work breaks something again and again until the context ends.
func (k *killer) work(ctx context.Context) {
	for pause(ctx, 200*time.Millisecond+time.Duration(k.rng.Float64()*float64(1500*time.Millisecond))) {
		k.revive()
		victim, draw, d := k.rng.IntN(processes), k.rng.IntN(100), k.rng.Float64()
		switch {
		case draw < 40:
			k.with(victim, &k.kills, func(p *process) {
				p.kill()
				// Often before its leases have run out, sometimes after.
				k.rest(time.Duration(d * d * float64(10*time.Second)))
				k.start(p)
			})
		case draw < 65:
			k.with(victim, &k.stops, func(p *process) { k.freeze(p, lease+time.Duration(500+4000*d)*time.Millisecond) })
		case draw < 75:
			k.with(victim, &k.hiccups, func(p *process) { k.freeze(p, time.Duration(2000*d)*time.Millisecond) })
		case draw < 92:
			k.endSession(ctx)
		default:
			k.crashPostgres(ctx)
		}
	}
}

// with has something done to a provisioner that is well, and goes on.
func (k *killer) with(victim int, count *int, do func(*process)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.busy[victim] || k.over {
		return
	}
	k.busy[victim] = true
	*count++
	k.run.logf("breaking provisioner-%d: kills %d, stops %d, hiccups %d", victim, k.kills, k.stops, k.hiccups)
	k.wg.Go(func() {
		do(k.run.provisioners[victim])
		k.mu.Lock()
		defer k.mu.Unlock()
		k.busy[victim] = false
	})
}

func (k *killer) freeze(p *process, d time.Duration) {
	p.signal(syscall.SIGSTOP)
	k.rest(d)
	p.signal(syscall.SIGCONT)
}

// rest waits, also where the run is over: what was begun is brought to its end.
func (k *killer) rest(d time.Duration) { pause(context.Background(), d) }

func (k *killer) start(p *process) {
	if err := p.start(); err != nil {
		k.run.broken("Harness", "%v", err)
	}
}

// revive starts what has ended by itself, as whoever runs a service does: one that can't
// reach its database for long may give up.
func (k *killer) revive() {
	for n, p := range k.run.provisioners {
		select {
		case <-p.over():
			k.with(n, &k.restarts, k.start)
		default:
		}
	}
}

// endSession ends a session of Postgres.
func (k *killer) endSession(ctx context.Context) {
	if _, err := k.run.once(ctx, `SELECT pg_terminate_backend(pid)::text FROM pg_stat_activity
		WHERE datname = current_database() AND pid <> pg_backend_pid() ORDER BY md5(pid || $1) LIMIT 1`, k.rng.Int64()); err == nil {
		k.sessions++
	}
}

// crashPostgres kills a backend. Postgres then ends all others, throws its memory
// away and recovers from its log.
func (k *killer) crashPostgres(ctx context.Context) {
	pids, err := k.run.once(ctx, `SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() ORDER BY md5(pid || $1) LIMIT 1`, k.rng.Int64())
	if err != nil || len(pids) == 0 {
		return
	}
	pid, err := strconv.Atoi(pids[0])
	if err != nil {
		return
	}
	if p, err := os.FindProcess(pid); err == nil && p.Signal(syscall.SIGKILL) == nil {
		k.crashes++
		k.run.logf("a backend of Postgres was killed")
	}
}

// calm ends the killing: all that was stopped goes on, all that was killed runs again.
func (k *killer) calm() {
	k.mu.Lock()
	k.over = true
	k.mu.Unlock()
	k.wg.Wait()
}
