// Package openapi holds the OpenAPI document of the REST API, embedded.
//
// The document is the source of the API: a test of internal/api walks router
// and document in both directions, validates every response that its tests
// provoke against it, and compares its schemas with the wire types of package
// client. The package does nothing else and imports nothing of ours.
package openapi
