package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/url"
	"sync/atomic"
)

const pageSize = 100

// listFilter is one way to ask for a list.
type listFilter struct {
	name, param, value string
	// where picks the same rows in SQL.
	where string
}

func listFilters() []listFilter {
	return []listFilter{
		{name: "unfiltered", where: "true"},
		{"owner", "owner", "owner7", "owner = 'owner7'"},
		{"cluster", "cluster", clusterName, "true"},
		{"state", "state", "stable", "state = 'stable'"},
		{"rare state", "state", "update-failed", "state = 'update-failed'"},
		{"label", "label", "stage=production", `labels @> '{"stage": "production"}'`},
		{"rare label", "label", "customer=c7", `labels @> '{"customer": "c7"}'`},
		{"group", "group", groupName, "group_id IS NOT NULL"},
	}
}

// benchList measures pages of 100 out of 10,000.
func benchList(ctx context.Context, b *bench) error {
	worst, p, err := b.lists(ctx, "list10k", pick(b, 10_000, 1_000))
	if err != nil {
		return err
	}
	b.print("list100.statements", worst.statements, "statements")
	b.print("list100.p50_ms", worst.p50, "ms")
	b.print("list100.p99_ms", worst.p99, "ms")
	b.print("list100.p50_ms.10k", worst.p50Any, "ms")
	return concurrentLists(ctx, b, p)
}

// benchListMillion measures pages of 100 out of 1,000,000.
func benchListMillion(ctx context.Context, b *bench) error {
	worst, _, err := b.lists(ctx, "list1m", pick(b, 1_000_000, 20_000))
	if err != nil {
		return err
	}
	b.print("list100.p50_ms.1m", worst.p50Any, "ms")
	return nil
}

// listFigures are the worst of all pages: the first three without a filter, p50Any of all.
type listFigures struct{ statements, p50, p99, p50Any float64 }

// lists reads first, middle and last pages, without a filter and with each.
func (b *bench) lists(ctx context.Context, name string, size int) (worst listFigures, p *provisioner, err error) {
	d, p, err := b.multitude(ctx, name, size)
	if err != nil {
		return worst, nil, err
	}
	n := pick(b, 300, 50)
	for _, f := range listFilters() {
		total, err := d.count(ctx, `SELECT count(*) FROM installation WHERE deleted_at IS NULL AND `+f.where)
		if err != nil {
			return worst, nil, err
		}
		for _, place := range []struct {
			name  string
			after int64 // how many rows come before the page
		}{{"first", 0}, {"middle", total / 2}, {"last", max(0, total-pageSize)}} {
			if place.after == 0 && place.name != "first" {
				continue // there is one page
			}
			path, err := d.pagePath(ctx, f, place.after)
			if err != nil {
				return worst, nil, err
			}
			one, err := b.listPage(ctx, d, p, path, n)
			if err != nil {
				return worst, nil, err
			}
			b.say("%-10s %-6s of %7d: p50 %.2f ms, p99 %.2f ms, %.2f ms in the database, %.2f statements", f.name, place.name, total, one.p50, one.p99, one.p50Any, one.statements)
			worst.p50Any = max(worst.p50Any, one.p50)
			if f.param == "" {
				worst.statements, worst.p50, worst.p99 = max(worst.statements, one.statements), max(worst.p50, one.p50), max(worst.p99, one.p99)
			}
		}
	}
	return worst, p, nil
}

// pagePath is the request for the page that follows that many rows.
func (d *database) pagePath(ctx context.Context, f listFilter, after int64) (string, error) {
	query := url.Values{"limit": {fmt.Sprint(pageSize)}}
	if f.param != "" {
		query.Set(f.param, f.value)
	}
	if after > 0 {
		var id string
		err := d.look.QueryRowContext(ctx, `SELECT id FROM installation WHERE deleted_at IS NULL AND `+f.where+` ORDER BY id OFFSET $1 LIMIT 1`, after-1).Scan(&id)
		if err != nil {
			return "", fmt.Errorf("finding a page: %w", err)
		}
		query.Set("cursor", base64.RawURLEncoding.EncodeToString([]byte(id)))
	}
	return installationsPath + "?" + query.Encode(), nil
}

// listPage asks for one page n times; p50Any is the time of the database, in the mean.
func (b *bench) listPage(ctx context.Context, d *database, p *provisioner, path string, n int) (listFigures, error) {
	get := func(c *conn, _ int) error {
		_, err := c.want(200, "GET", path, "", "")
		return err
	}
	// The statement has its plan before it counts.
	if _, err := spread(ctx, p.api, 1, 20, get); err != nil {
		return listFigures{}, err
	}
	var took []float64
	made, err := d.measure(ctx, func() error {
		all, err := spread(ctx, p.api, 1, n, get)
		for _, t := range all {
			took = append(took, ms(t))
		}
		return err
	})
	if err != nil {
		return listFigures{}, err
	}
	return listFigures{float64(made.statements) / float64(n), median(took), percentile(took, 0.99), made.ms / float64(n)}, nil
}

// concurrentLists counts the lists that are not answered with 200 when 150
// clients ask at once.
func concurrentLists(ctx context.Context, b *bench, p *provisioner) error {
	const clients = 150
	var failed atomic.Int64
	took, err := spread(ctx, p.api, clients, 4*clients, func(c *conn, _ int) error {
		status, _, err := c.do("GET", installationsPath+"?limit=100", "", "")
		if err != nil || status != 200 {
			failed.Add(1)
		}
		return err
	})
	if err != nil {
		return err
	}
	b.print("lists150.errors", float64(failed.Load()), "answers")
	b.print("lists150.p99_ms", ms(percentile(took, 0.99)), "ms")
	return nil
}
