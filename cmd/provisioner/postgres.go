package main

import (
	"context"

	"dormouse/internal/devpg"
)

func (s *server) startPostgres(ctx context.Context) (*devpg.Server, error) {
	return devpg.Start(ctx, devpg.Options{Dir: s.dir.join("postgres"), Log: s.log})
}

// keepPostgres starts the private Postgres again when it has ended under us:
// killed for want of memory, or by hand. Whoever waits for it tries again by
// themselves; until then /readyz says that it is away.
func (s *server) keepPostgres(ctx context.Context) { s.pg.Watch(ctx) }
