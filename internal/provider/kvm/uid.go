package kvm

import (
	"sync"

	"dormouse/internal/fleet"
)

// uids hands out the user IDs that QEMU processes run as, each to one instance
// at a time. The journal is where they are remembered.
type uids struct {
	base, count int

	mu   sync.Mutex
	used map[int]string
}

// newUIDs returns the range [base, base+count); count 0 means that QEMU runs as
// the provisioner's own user.
func newUIDs(base, count int) *uids {
	return &uids{base: base, count: count, used: map[int]string{}}
}

// keep marks a UID found in the journal. It returns false where it has another
// owner, so that the caller takes a new one.
func (u *uids) keep(uid int, owner string) bool {
	if u.count == 0 {
		return uid == 0
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if uid < u.base || uid >= u.base+u.count {
		return false
	}
	if has, taken := u.used[uid]; taken && has != owner {
		return false
	}
	u.used[uid] = owner
	return true
}

// take returns the lowest free UID; 0 where there is no range.
func (u *uids) take(owner string) (int, error) {
	if u.count == 0 {
		return 0, nil
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	for uid := u.base; uid < u.base+u.count; uid++ {
		if _, taken := u.used[uid]; !taken {
			u.used[uid] = owner
			return uid, nil
		}
	}
	return 0, fleet.Errorf(fleet.KindCapacity, "all %d user IDs from %d on are in use on this host", u.count, u.base)
}

// release gives a UID back; a UID that is not held is ignored.
func (u *uids) release(uid int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.used, uid)
}
