package main

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// benchPatch has 8 clients patch one installation, each patch another key, and
// counts the acknowledged changes that are not there in the end.
func benchPatch(ctx context.Context, b *bench) error {
	f, err := b.shared(ctx)
	if err != nil {
		return err
	}
	id := f.ids[len(f.ids)-1]
	const clients, patches = 8, 200
	var mu sync.Mutex
	acknowledged, refused := map[string]bool{}, 0
	begin := time.Now()
	_, err = spread(ctx, f.proc.api, clients, patches, func(c *conn, i int) error {
		key := fmt.Sprintf("KEY_%d", i)
		status, _, err := c.do("PATCH", installationsPath+"/"+id, "", fmt.Sprintf(`{"env":{%q:"set"}}`, key))
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		if status == 202 || status == 200 {
			acknowledged[key] = true
		} else {
			refused++
		}
		return nil
	})
	if err != nil {
		return err
	}
	took := time.Since(begin)
	if err := worked(ctx, f.db, time.Minute); err != nil {
		return err
	}
	v, err := f.proc.client.Installations.Get(ctx, id)
	if err != nil {
		return err
	}
	lost := 0
	for key := range acknowledged {
		if v.Env[key] != "set" {
			lost++
		}
	}
	b.print("patch.lost", float64(lost), "changes")
	b.print("patch.refused", float64(refused), "changes")
	b.print("patch.rate.8", patches/took.Seconds(), "1/s")
	// What is desired must have come true in the instance too.
	behind, err := f.db.count(ctx, `SELECT count(*) FROM installation i JOIN instance x ON x.installation_id = i.id AND x.serving AND x.deleted_at IS NULL
		WHERE i.id = $1 AND x.spec -> 'env' IS DISTINCT FROM i.env`, id)
	if err != nil {
		return err
	}
	b.print("patch.instance_behind", float64(behind), "instances")
	return nil
}
