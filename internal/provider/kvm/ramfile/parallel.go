package ramfile

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
)

func (o Options) workers() int {
	if o.Parallel > 0 {
		return o.Parallel
	}
	return runtime.GOMAXPROCS(0)
}

// each calls for 0 to n-1, in this order but many at once, the functions that
// start returns, one for each worker. It returns after the last of them, with
// the first error or the context's.
func each(ctx context.Context, workers int, n int64, start func() func(int64) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var running sync.WaitGroup
	for range min(int64(workers), n) {
		running.Go(func() {
			work := start()
			for ctx.Err() == nil {
				i := next.Add(1) - 1
				if i >= n {
					return
				}
				if err := work(i); err != nil {
					cancel(err)
				}
			}
		})
	}
	running.Wait()
	return context.Cause(ctx)
}
