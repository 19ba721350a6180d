package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"sync/atomic"
)

const pageSize = 100

// benchList measures pages of 100 from the beginning, the middle and the end of
// all installations, and many lists at once.
func benchList(ctx context.Context, b *bench) error {
	f, err := b.shared(ctx)
	if err != nil {
		return err
	}
	c, err := dial(f.proc.api)
	if err != nil {
		return err
	}
	defer c.close()
	pages, err := allPages(c)
	if err != nil {
		return err
	}
	b.say("%d pages of %d", len(pages), pageSize)
	n := pick(b, 400, 50)
	places := []struct {
		name string
		path string
	}{{"first", pages[0]}, {"middle", pages[len(pages)/2]}, {"last", pages[len(pages)-1]}}
	for _, place := range places {
		get := func(c *conn, _ int) error {
			_, err := c.want(200, "GET", place.path, "", "")
			return err
		}
		if _, err := spread(ctx, f.proc.api, 1, 32, get); err != nil {
			return err
		}
		var took []float64
		made, err := f.db.measure(ctx, func() error {
			all, err := spread(ctx, f.proc.api, 1, n, get)
			for _, t := range all {
				took = append(took, ms(t))
			}
			return err
		})
		if err != nil {
			return err
		}
		b.explain(made, float64(n), place.name+" page")
		b.print("list100."+place.name+".statements", float64(made.statements)/float64(n), "statements")
		b.print("list100."+place.name+".p50_ms", median(took), "ms")
		b.print("list100."+place.name+".p99_ms", percentile(took, 0.99), "ms")
		b.print("list100."+place.name+".db_ms", made.ms/float64(n), "ms")
	}
	return concurrentLists(ctx, b, f, places[0].path)
}

// allPages walks through the list and returns the path of every page.
func allPages(c *conn) ([]string, error) {
	query := url.Values{"limit": {fmt.Sprint(pageSize)}}
	var pages []string
	for {
		path := installationsPath + "?" + query.Encode()
		pages = append(pages, path)
		content, err := c.want(200, "GET", path, "", "")
		if err != nil {
			return nil, err
		}
		var page struct {
			NextCursor string `json:"next_cursor"`
		}
		if err := json.Unmarshal(content, &page); err != nil {
			return nil, err
		}
		if page.NextCursor == "" {
			return pages, nil
		}
		query.Set("cursor", page.NextCursor)
	}
}

// concurrentLists counts the lists that are not answered with 200 when 150
// clients ask at once.
func concurrentLists(ctx context.Context, b *bench, f *crowd, path string) error {
	const clients = 150
	var failed atomic.Int64
	took, err := spread(ctx, f.proc.api, clients, 2*clients, func(c *conn, _ int) error {
		status, _, err := c.do("GET", path, "", "")
		if err != nil || status != 200 {
			failed.Add(1)
		}
		return err
	})
	if err != nil {
		return err
	}
	b.print("list100.concurrent150.errors", float64(failed.Load()), "answers")
	b.print("list100.concurrent150.p99_ms", ms(percentile(took, 0.99)), "ms")
	return nil
}
