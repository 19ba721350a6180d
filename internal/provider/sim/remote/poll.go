package remote

import (
	"context"
	"net/http"
	"time"

	"dormouse/internal/fleet"
)

// The pauses before the next poll of a simulator that does not answer.
const (
	firstPause = 50 * time.Millisecond
	maxPause   = 2 * time.Second
)

// poll passes changes on until ctx ends. It asks again and again where the
// simulator does not answer.
func (c *Client) poll(ctx context.Context, onChange func(fleet.InstanceID)) {
	pause := time.Duration(0)
	for {
		var ids []fleet.InstanceID
		err := c.do(ctx, http.MethodGet, "/changes", nil, &ids)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			if pause > 0 {
				c.log.WithField("simulator", c.url).Info("the simulator answers again")
			}
			pause = 0
			for _, id := range ids {
				onChange(id)
			}
			continue
		}
		if pause == 0 {
			c.log.WithError(err).Warn("waiting for the simulator; calls about its clusters fail meanwhile")
		}
		pause = min(max(2*pause, firstPause), maxPause)
		wait := time.NewTimer(pause)
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return
		}
	}
}
