package api

import (
	"context"

	"dormouse/internal/fleet"
)

// Store is what the API needs of the database. Every method is one
// transaction. Errors are fleet.Errors: KindNotFound, KindConflict (a name that
// is taken, or an idempotency key used for another request), KindNotAccepted,
// KindStale (If-Match), KindCapacity, KindUnavailable (no database).
//
// An empty owner sees every owner's installations.
type Store interface {
	CreateInstallation(ctx context.Context, in NewInstallation) (Accepted, error)
	// ChangeInstallation accepts one request on an installation that exists.
	ChangeInstallation(ctx context.Context, in Change) (Accepted, error)
	// Installation finds by ID, or by name among those not deleted.
	Installation(ctx context.Context, owner, idOrName string) (InstallationView, error)
	// ListInstallations returns a page of what a client.Installation shows, each
	// with its operation only while that is under way.
	ListInstallations(ctx context.Context, q InstallationQuery) ([]InstallationView, error)

	// Traffic finds by ID or by name among those not deleted.
	Traffic(ctx context.Context, idOrName string) (fleet.Traffic, error)
	// ListTraffic returns those that were visited last, latest first.
	ListTraffic(ctx context.Context, limit int) ([]fleet.Traffic, error)

	CreateGroup(ctx context.Context, in NewGroup) (GroupView, error)
	// ChangeGroup makes a new revision where it changes the configuration.
	ChangeGroup(ctx context.Context, in ChangeGroup) (GroupView, error)
	// Group finds by ID or name among those not deleted.
	Group(ctx context.Context, idOrName string) (GroupView, error)
	ListGroups(ctx context.Context, page Page) ([]GroupView, error)
	// DeleteGroup refuses with KindNotAccepted while the group has members or an open rollout.
	DeleteGroup(ctx context.Context, idOrName string, key IdempotencyKey) error
	// GroupRevisions returns those after a number, in order.
	GroupRevisions(ctx context.Context, idOrName string, after fleet.RevisionNumber, limit int) ([]fleet.GroupRevision, error)

	// CreateRollout supersedes the group's open rollout. Its spec is normalised.
	CreateRollout(ctx context.Context, in NewRollout) (RolloutView, error)
	ControlRollout(ctx context.Context, in RolloutControl) (RolloutView, error)
	Rollout(ctx context.Context, id fleet.RolloutID) (RolloutView, error)
	// ListRollouts returns them without their counts and operations.
	ListRollouts(ctx context.Context, q RolloutQuery) ([]RolloutView, error)
	RolloutMembers(ctx context.Context, q MemberQuery) ([]fleet.RolloutMember, error)
	// RolloutCandidates returns whom a rollout of the group to that revision (0
	// is the newest) would move, and the rollout without an ID and a plan. It
	// changes nothing.
	RolloutCandidates(ctx context.Context, group string, to fleet.RevisionNumber) ([]fleet.RolloutMember, fleet.Rollout, error)

	CreateCluster(ctx context.Context, in NewCluster) (ClusterView, error)
	DeleteCluster(ctx context.Context, idOrName string, key IdempotencyKey) (ClusterView, error)
	// CheckCluster refuses with KindNotAccepted while something is at work on it.
	CheckCluster(ctx context.Context, in CheckCluster) (ClusterView, error)
	Cluster(ctx context.Context, idOrName string) (ClusterView, error)
	ListClusters(ctx context.Context, page Page) ([]ClusterView, error)

	// ListHosts returns a cluster's hosts, with what lies there where they are drained.
	ListHosts(ctx context.Context, cluster string) ([]HostView, error)
	Host(ctx context.Context, cluster, host string) (HostView, error)
	// ControlHost carries a verb out. One that is removed is returned as it was.
	ControlHost(ctx context.Context, in HostControl) (HostView, error)

	// CreatePackage records a package. One with the same name, version and
	// digest is returned as it is; another digest is KindConflict.
	CreatePackage(ctx context.Context, p fleet.Package) (fleet.Package, error)
	// DeletePackage refuses with KindNotAccepted while an installation wants or runs it.
	DeletePackage(ctx context.Context, idOrRef string) error
	// Package finds by ID, name@version, or name (the newest).
	Package(ctx context.Context, idOrRef string) (fleet.Package, error)
	ListPackages(ctx context.Context, page Page) ([]fleet.Package, error)

	// ListInstances returns a page of those not deleted, in order of ID.
	ListInstances(ctx context.Context, q fleet.InstanceQuery) ([]fleet.InstanceView, error)
	Instance(ctx context.Context, id fleet.InstanceID) (fleet.InstanceView, error)

	Operation(ctx context.Context, id fleet.OperationID) (fleet.Operation, error)
	ListOperations(ctx context.Context, q OperationQuery) ([]fleet.Operation, error)

	// Ping fails unless the database accepts writes.
	Ping(ctx context.Context) error
}

// What the store takes and returns.
type (
	IdempotencyKey    = fleet.IdempotencyKey
	NewInstallation   = fleet.NewInstallation
	Change            = fleet.Change
	NewGroup          = fleet.NewGroup
	ChangeGroup       = fleet.ChangeGroup
	GroupView         = fleet.GroupView
	NewRollout        = fleet.NewRollout
	RolloutControl    = fleet.RolloutControl
	RolloutView       = fleet.RolloutView
	RolloutQuery      = fleet.RolloutQuery
	MemberQuery       = fleet.MemberQuery
	NewCluster        = fleet.NewCluster
	CheckCluster      = fleet.CheckCluster
	Accepted          = fleet.Accepted
	InstallationView  = fleet.InstallationView
	ClusterView       = fleet.ClusterView
	HostView          = fleet.HostView
	HostControl       = fleet.HostControl
	Page              = fleet.Page
	InstallationQuery = fleet.InstallationQuery
	OperationQuery    = fleet.OperationQuery
)
