package kvm

import (
	"context"
	"time"
)

// statusIOError: QEMU has stopped the guest, because there was no room on the host
// for what it wrote. It writes it again when it goes on.
const statusIOError = "io-error"

// ioRetry is how long the host has to make room.
const ioRetry = 5 * time.Second

// retrySoon lets a guest go on that was stopped because the host's disk was full:
// where that still is so, it is stopped again, and tried again.
func (v *vm) retrySoon() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.retrying || v.ctx.Err() != nil {
		return
	}
	v.retrying = true
	v.after(ioRetry, func() {
		v.mu.Lock()
		v.retrying = false
		v.mu.Unlock()
		ctx, cancel := context.WithTimeout(v.ctx, ioRetry)
		defer cancel()
		c, err := v.control(ctx)
		if err != nil || !v.stoppedByFullDisk(ctx) {
			return
		}
		v.i.p.log.WithField("instance", v.i.id).Warn("a guest stands still because the host's disk was full; it is tried again")
		_ = c.Execute(ctx, "cont", nil, nil)
	})
}

func (v *vm) stoppedByFullDisk(ctx context.Context) bool {
	c, err := v.control(ctx)
	if err != nil {
		return false
	}
	st, err := c.status(ctx)
	return err == nil && st.Status == statusIOError
}
