package providertest

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

// concurrent makes some instances at once, each by several callers of which
// the first loses its answer.
func (s *suite) concurrent(t *testing.T) {
	instances, callers := 8, 6
	if s.h.Slow {
		instances, callers = 3, 4
	}
	var specs []fleet.InstanceSpec
	for i := range instances {
		spec := s.h.Spec(t, fmt.Sprintf("concurrent-%d", i))
		s.cleanUp(t, refOf(spec))
		specs = append(specs, spec)
	}

	t.Run("LostAnswerIsAdopted", func(t *testing.T) {
		// The answer never reaches the caller, who asks again.
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = s.p.Ensure(ctx, specs[0])
		}()
		cancel()
		<-done
		first := s.ensure(t, specs[0])
		again, err := s.p.Ensure(t.Context(), specs[0])
		require.NoError(t, err)
		require.Equal(t, first.ProviderRef, again.ProviderRef)
		require.True(t, first.CreatedAt.Equal(again.CreatedAt), "the same instance, adopted")
	})

	t.Run("Ensure", func(t *testing.T) {
		var wg sync.WaitGroup
		errs := make(chan error, instances*callers)
		for range callers {
			for _, spec := range specs {
				wg.Go(func() {
					st, err := s.p.Ensure(t.Context(), spec)
					if err == nil && st.ID != spec.ID {
						err = fmt.Errorf("ensured %s, got %s", spec.ID, st.ID)
					}
					errs <- err
				})
			}
		}
		wg.Wait()
		close(errs)
		for err := range errs {
			require.NoError(t, err)
		}
		used := map[string]fleet.InstanceID{}
		for _, spec := range specs {
			st := s.await(t, refOf(spec), "healthy", running)
			for _, e := range st.Endpoints {
				require.Empty(t, used[e.Address], "two instances at %s", e.Address)
				used[e.Address] = spec.ID
			}
		}
	})

	t.Run("List", func(t *testing.T) {
		listed := s.list(t)
		require.Len(t, listed, len(specs))
		for _, spec := range specs {
			require.Contains(t, listed, spec.ID)
			require.Equal(t, spec.InstallationID, listed[spec.ID].InstallationID)
		}
	})

	t.Run("Delete", func(t *testing.T) {
		var wg sync.WaitGroup
		errs := make(chan error, 2*len(specs))
		for range 2 {
			for _, spec := range specs {
				wg.Go(func() { errs <- s.p.Delete(t.Context(), refOf(spec)) })
			}
		}
		wg.Wait()
		close(errs)
		for err := range errs {
			require.NoError(t, err)
		}
		require.Empty(t, s.list(t))
	})
}
