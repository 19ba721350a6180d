package main

import (
	"context"
	"time"

	"dormouse/internal/fleet"
	"dormouse/internal/imagebuilder"
)

// imageStore is the image builder as the API sees it.
type imageStore struct {
	*imagebuilder.Builder
	// used tells whether an instance of this host is made of an image.
	used func(fleet.ImageID) bool
}

// RemoveImage implements api.Images.
func (s imageStore) RemoveImage(ctx context.Context, id fleet.ImageID) error {
	if s.used(id) {
		return fleet.Errorf(fleet.KindNotAccepted, "image %s is what an instance of this host is made of: update or delete its installation first", id)
	}
	return s.Builder.RemoveImage(ctx, id)
}

// imageStore returns what the API needs of the images here.
func (p *places) imageStore() imageStore { return imageStore{p.images, p.usesImage} }

func (p *places) usesImage(id fleet.ImageID) bool { return p.kvm != nil && p.kvm.UsesImage(id) }

// collectEvery is how often images that nobody uses are looked for.
const collectEvery = time.Hour

// collectImages removes images that nobody has used for the grace period. The
// host does it: its journal knows every instance that is made of them.
func (s *server) collectImages(ctx context.Context) {
	if s.places.kvm == nil {
		return
	}
	s.background.Go(func() {
		// It ends with ctx only: what fails is tried again an hour later.
		_ = repeat(ctx, wallClock{}, func(ctx context.Context) (time.Duration, error) {
			removed, err := s.places.images.Collect(ctx, s.places.usesImage, s.c.imageGrace)
			if err != nil && ctx.Err() == nil {
				s.log.WithError(err).Warn("images that nobody uses could not all be removed")
			}
			if len(removed) > 0 {
				s.log.WithField("images", len(removed)).Info("removed images that nobody used")
			}
			return collectEvery, nil
		})
	})
}
