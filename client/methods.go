package client

import (
	"context"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
)

// get reads one document.
func get[T any](ctx context.Context, c *Client, query url.Values, collection string, elements ...string) (T, error) {
	var out T
	path, err := pathOf(collection, elements...)
	if err == nil {
		err = c.do(ctx, request{method: http.MethodGet, path: path, query: query}, &out)
	}
	return out, err
}

// mutate requests a change and returns the document that it is answered with.
func mutate[T any](ctx context.Context, c *Client, method string, body any, options []RequestOption, collection string, elements ...string) (T, error) {
	var out T
	path, err := pathOf(collection, elements...)
	if err != nil {
		return out, err
	}
	r, err := change(method, path, body, options)
	if err != nil {
		return out, err
	}
	err = c.do(ctx, r, &out)
	return out, err
}

// remove asks to remove something, which is answered without a document.
func (c *Client) remove(ctx context.Context, path string, options []RequestOption) error {
	r, err := change(http.MethodDelete, path, nil, options)
	if err != nil {
		return err
	}
	return c.do(ctx, r, nil)
}

// all goes through the pages that list returns, beginning at cursor.
func all[T any](cursor string, list func(cursor string) (Page[T], error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for {
			page, err := list(cursor)
			if err != nil {
				var none T
				yield(none, err)
				return
			}
			for _, item := range page.Items {
				if !yield(item, nil) {
					return
				}
			}
			if page.NextCursor == "" {
				return
			}
			cursor = page.NextCursor
		}
	}
}

// stream sends a request, with the usual repeats, whose answer is read by the
// caller, for as long as it takes.
func (c *Client) stream(ctx context.Context, r request) (io.ReadCloser, error) {
	for attempt := 1; ; attempt++ {
		answer, err := c.send(ctx, ctx, r)
		if err == nil {
			return answer.Body, nil
		}
		if ctx.Err() != nil || attempt >= c.options.Attempts || !worthRepeating(err) {
			return nil, err
		}
		if err := c.pause(ctx, attempt, err); err != nil {
			return nil, err
		}
	}
}

func set(v url.Values, key, value string) {
	if value != "" {
		v.Set(key, value)
	}
}

func page(v url.Values, limit int, cursor string) {
	if limit > 0 {
		v.Set("limit", strconv.Itoa(limit))
	}
	set(v, "cursor", cursor)
}

func setNumber(v url.Values, key string, n int64) { v.Set(key, strconv.FormatInt(n, 10)) }
