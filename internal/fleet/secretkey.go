package fleet

import "time"

// SecretKey says which key seals the tenants' secrets, and tells nothing of the
// key itself. All provisioners on one database must have the same.
type SecretKey struct {
	// ID is the name of the key in every value that it has sealed.
	ID string `json:"id"`
	// CheckValue is the same for the same key only (sealed.Box.Key).
	CheckValue string `json:"check_value"`
	// RecordedAt is when it became the database's.
	RecordedAt time.Time `json:"recorded_at,omitzero"`
}

// Same tells whether both are of one key.
func (k SecretKey) Same(as SecretKey) bool { return k.ID == as.ID && k.CheckValue == as.CheckValue }
