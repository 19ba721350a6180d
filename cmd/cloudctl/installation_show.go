package main

import (
	"fmt"
	"strings"
	"time"

	"dormouse/client"
)

func (a *app) printInstallation(in client.Installation) error {
	return a.print(in, func() string { return a.installationSheet(in) })
}

func (a *app) installationTable(list []client.Installation) string {
	t := table{{"NAME", "OWNER", "STATE", "PACKAGE", "CLUSTER", "MEMORY", "AGE", "URL"}}
	for _, in := range list {
		state := in.State
		if in.StateReason != "" {
			state += " (" + in.StateReason + ")"
		}
		t = append(t, []string{in.Name, in.Owner, state, in.Package, in.Cluster, showMiB(int64(in.MemoryMiB)), a.age(in.CreatedAt), in.URL})
	}
	return t.String()
}

func (a *app) installationSheet(in client.Installation) string {
	var s sheet
	s.add("Name", in.Name)
	s.add("ID", in.ID)
	s.add("Owner", in.Owner)
	s.add("State", in.State+inBrackets(in.StateReason, in.StateDetail))
	if !in.AsleepSince.IsZero() {
		s.add("Asleep", asleepLine(a, in))
	}
	s.add("URL", in.URL)
	s.list("DNS names", in.DNSNames)
	pkg := in.Package
	if in.RunningPackage != "" && in.RunningPackage != in.Package {
		pkg += ", running " + in.RunningPackage
	}
	s.add("Package", pkg)
	if in.Group != "" {
		s.add("Group", fmt.Sprintf("%s, revision %d", in.Group, in.GroupRevision))
		s.list("Its own", ownLines(in.Own))
	}
	s.add("Cluster", in.Cluster)
	s.add("Size", fmt.Sprintf("%s memory, %s disk, %d CPU", showMiB(int64(in.MemoryMiB)), showMiB(int64(in.DiskMiB)), in.VCPUs))
	var endpoints []string
	for _, e := range in.Endpoints {
		endpoints = append(endpoints, endpointLine(e))
	}
	s.list("Endpoints", endpoints)
	s.list("Environment", keyValues(in.Env))
	s.add("Secrets", strings.Join(in.SecretNames, ", "))
	s.list("Labels", keyValues(in.Labels))
	s.list("Sleep", idleLines(in.Idle))
	s.list("Waking", wakeLines(in.Wake))
	if n := in.NextSchedule; n != nil {
		s.add("Next", fmt.Sprintf("%s at %s", n.Do, n.At.Format(time.RFC3339)))
	}
	s.add("Last visit", a.ago(in.LastActiveAt))
	if i := in.Instance; i != nil {
		text := i.ID + " " + i.Power
		if i.Host != "" {
			text += " on " + i.Host
		}
		if i.Restarts > 0 {
			text += fmt.Sprintf(", restarted %d times", i.Restarts)
		}
		s.add("Instance", text)
		if e := i.Exit; e != nil {
			s.add("Program", a.exitLine(*e))
			s.list("Last lines", e.LastLines)
		}
	}
	s.add("Operation", a.operationLine(in.Operation))
	s.add("Version", fmt.Sprint(in.Version))
	s.add("Created", a.ago(in.CreatedAt))
	return s.String()
}

// endpointLine is where one port is reached: at the gateway, and behind it.
func endpointLine(e client.Endpoint) string {
	text := fmt.Sprintf("%d/%s at ", e.Port, e.Protocol)
	switch outside := e.URL + e.GatewayAddress; {
	case outside == "":
		text += e.Address
	case e.Address == "":
		text += outside
	default:
		text += outside + " (" + e.Address + ")"
	}
	return strings.TrimSpace(text + " " + e.Name)
}

// asleepLine is for how long it has slept, and what is kept of it.
func asleepLine(a *app, in client.Installation) string {
	text := "for " + a.age(in.AsleepSince)
	if i := in.Instance; i != nil && i.Saved != nil {
		text += ", " + i.Saved.Tier
		if i.Saved.Bytes > 0 {
			text += " (" + showBytes(i.Saved.Bytes) + ")"
		}
	}
	return text
}

// ownLines is what an installation sets itself, and its group does not.
func ownLines(own *client.Own) []string {
	if own == nil {
		return nil
	}
	var lines []string
	if own.Package != "" {
		lines = append(lines, "package "+own.Package)
	}
	if own.MemoryMiB != 0 {
		lines = append(lines, showMiB(int64(own.MemoryMiB))+" memory")
	}
	if own.VCPUs != 0 {
		lines = append(lines, fmt.Sprintf("%d CPU", own.VCPUs))
	}
	lines = append(lines, keyValues(own.Env)...)
	return append(append(lines, idleLines(own.Idle)...), wakeLines(own.Wake)...)
}

func (a *app) exitLine(e client.Exit) string {
	text := fmt.Sprintf("ended with exit code %d", e.Code)
	if e.Signal != "" {
		text = "ended by signal " + e.Signal
	}
	if e.Reason != "" {
		text += " (" + e.Reason + ")"
	}
	if !e.At.IsZero() {
		text += ", " + a.ago(e.At)
	}
	return text
}

// operationLine is an operation in one line; "" for none.
func (a *app) operationLine(op *client.Operation) string {
	if op == nil {
		return ""
	}
	text := fmt.Sprintf("%s %s", op.Kind, op.ID)
	if op.Finished() {
		text += ", " + op.State
		if op.State != "succeeded" {
			text += because(op.FailReason, op.Error)
		}
		return text
	}
	return text + ", " + position(*op)
}
