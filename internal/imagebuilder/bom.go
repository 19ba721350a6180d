package imagebuilder

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/url"

	cdx "github.com/CycloneDX/cyclonedx-go"

	"dormouse/internal/fleet"
	"dormouse/internal/imagebuilder/source"
)

// BillOfMaterials writes what an image is made of as a CycloneDX 1.6 document
// in JSON: the kernel, and every file with its digest, below the Debian package
// or container layer that it came from. It has no serial number and no time, so
// that the same image has the same document. KindNotFound: there is no such image here.
func (b *Builder) BillOfMaterials(ctx context.Context, id fleet.ImageID, w io.Writer) (err error) {
	rec, err := b.record(id)
	if err != nil {
		return err
	}
	src, err := source.Open(b.packagePath(rec.PackageDigest), rec.PackageDigest, b.limits)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	files, err := hashTree(ctx, src.Tree, len(src.Origins))
	if err != nil {
		return fmt.Errorf("hashing the package's files: %w", err)
	}
	components := []cdx.Component{{
		BOMRef: "kernel", Type: cdx.ComponentTypeOS, Name: string(rec.Kernel), Hashes: sha256Of(rec.KernelDigest),
	}}
	for i, o := range src.Origins {
		if len(files[i+1]) > 0 {
			components = append(components, componentOf(o, files[i+1]))
		}
	}
	components = append(components, files[0]...)
	doc := cdx.NewBOM()
	doc.Metadata = &cdx.Metadata{Component: &cdx.Component{
		BOMRef: "image", Type: cdx.ComponentTypeApplication, Name: src.Name, Version: src.Version, Hashes: sha256Of(rec.PackageDigest),
		Properties: &[]cdx.Property{{Name: "dormouse:image", Value: string(id)}, {Name: "dormouse:builder", Value: rec.BuilderVersion}},
	}}
	doc.Components = &components
	return cdx.NewBOMEncoder(w, cdx.BOMFileFormatJSON).SetPretty(true).EncodeVersion(doc, cdx.SpecVersion1_6)
}

// hashTree returns the files of a tree as components, by their origin's number;
// 0 is the package's own.
func hashTree(ctx context.Context, tree *source.Tree, origins int) ([][]cdx.Component, error) {
	files := make([][]cdx.Component, origins+1)
	err := tree.Walk(func(e source.Entry) error {
		if err := ctx.Err(); err != nil || e.Kind != source.File {
			return err
		}
		h := sha256.New()
		if _, err := io.Copy(h, tree.Content(e)); err != nil {
			return err
		}
		files[e.Origin] = append(files[e.Origin], cdx.Component{
			BOMRef: "file:/" + e.Path, Type: cdx.ComponentTypeFile, Name: "/" + e.Path, Hashes: sha256Of(hex.EncodeToString(h.Sum(nil))),
		})
		return nil
	})
	return files, err
}

func componentOf(o source.Origin, files []cdx.Component) cdx.Component {
	c := cdx.Component{
		BOMRef: fmt.Sprintf("%s:%s@%s", o.Type, o.Name, o.Version), Type: cdx.ComponentTypeLibrary, Name: o.Name, Version: o.Version,
		PackageURL: packageURL(o), Components: &files,
	}
	if o.Digest != "" {
		c.BOMRef += "#" + o.Digest
		c.Hashes = sha256Of(o.Digest)
	}
	return c
}

// packageURL is the origin's purl (github.com/package-url/purl-spec); "" where it has none.
func packageURL(o source.Origin) string {
	switch o.Type {
	case source.OriginDeb:
		return fmt.Sprintf("pkg:deb/debian/%s@%s?arch=amd64", url.PathEscape(o.Name), url.PathEscape(o.Version))
	case source.OriginOCI:
		if o.Digest != "" {
			return fmt.Sprintf("pkg:oci/%s@sha256%%3A%s", url.PathEscape(source.MendName(o.Name)), o.Digest)
		}
	}
	return ""
}

func sha256Of(digest string) *[]cdx.Hash {
	return &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: digest}}
}
