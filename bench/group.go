package main

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"dormouse/client"
)

// benchGroup has 16 clients create 200 installations each into one group, and
// counts what is refused.
func benchGroup(ctx context.Context, b *bench) error {
	d, err := b.newDatabase(ctx, "group")
	if err != nil {
		return err
	}
	p, err := b.startProvisioner(ctx, start{name: "group", database: d.url, roles: "api"})
	if err != nil {
		return err
	}
	defer p.stop()
	content, err := b.tinyPackage()
	if err != nil {
		return err
	}
	if err := b.upload(ctx, p, content); err != nil {
		return err
	}
	if _, err := p.client.Clusters.Create(ctx, client.CreateCluster{Name: clusterName, Provider: "sim"}); err != nil {
		return err
	}
	if _, err := p.client.Groups.Create(ctx, client.CreateGroup{Name: groupName, Package: packageName}); err != nil {
		return err
	}
	const clients, each = 16, 200
	var refused atomic.Int64
	begin := time.Now()
	_, err = spread(ctx, p.api, clients, clients*each, func(c *conn, i int) error {
		status, _, err := c.do("POST", installationsPath, "", fmt.Sprintf(`{"name":"g-%d","owner":%q,"cluster":%q,"group":%q}`, i, owner, clusterName, groupName))
		if status != 202 {
			refused.Add(1)
		}
		return err
	})
	if err != nil {
		return err
	}
	took := time.Since(begin)
	members, err := d.count(ctx, `SELECT count(*) FROM installation WHERE group_id IS NOT NULL`)
	if err != nil {
		return err
	}
	b.print("group.creates", float64(members), "installations")
	b.print("group.refused", float64(refused.Load()), "requests")
	b.print("group.create.rate.16", float64(members)/took.Seconds(), "1/s")
	return nil
}
