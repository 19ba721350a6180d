package api

import "dormouse/internal/fleet"

// adviceOn says what an operator can do about a reason to wait or to have
// failed; nothing where it passes by itself. name is the installation's, or what
// else the reason is about.
func adviceOn(r fleet.Reason, name string) []string {
	logs := "see what its program says: cloudctl installation logs " + name
	switch r {
	case fleet.WaitCapacity, fleet.ReasonCapacity:
		return []string{"make room in its cluster: hibernate or delete other installations there, or give it more hosts",
			"or ask for less: cloudctl installation update " + name + " --memory SIZE"}
	case fleet.WaitAddress, fleet.ReasonNoAddress:
		return []string{"delete installations on its host, whose addresses are then given out again, or start the host with a larger --address-pool"}
	case fleet.WaitImage:
		return []string{"if it takes longer than a build should: see the log of the provisioner that the operation names as its worker"}
	case fleet.WaitInstance:
		return []string{"if it stays so: see whether the provider has the machine; the step fails at its deadline by itself"}
	case fleet.WaitHealthy, fleet.ReasonNotHealthy:
		return []string{logs, "or give it longer to start: provisioner server --health-deadline"}
	case fleet.WaitStopped, fleet.ReasonProgramExited, fleet.ReasonCrashLoop, fleet.ReasonGuestPanic:
		return []string{logs}
	case fleet.WaitCluster:
		return []string{"see what its cluster waits for: cloudctl cluster explain NAME"}
	case fleet.WaitHost:
		return []string{"start the provisioner of host " + name + ", and see its log where it runs"}
	case fleet.WaitWorker:
		return []string{"see that a provisioner with the role supervisor runs and reaches the database: /readyz, and its log",
			"where one runs and all its slots are used: give it more with --slots, or start another one"}
	case fleet.WaitBackoff:
		return []string{"the last error says what does not answer: when that is mended, the next try succeeds by itself"}
	case fleet.ReasonImageBuild, fleet.ReasonVolumeTooSmall:
		return []string{"ask for what can be made: cloudctl installation update " + name}
	case fleet.ReasonCheckFailed:
		return []string{"mend what its checks name: cloudctl cluster get " + name, "then check it again: cloudctl cluster check " + name + ", with --set for settings that are to change"}
	case fleet.ReasonPanic:
		return []string{"a row that can't be read was written by a hand or by another version: mend it in the database",
			"anything else of this kind is a fault of ours: the provisioner's log has the whole of it"}
	case fleet.ReasonQuarantined, fleet.ReasonDeadline, fleet.ReasonProvider, fleet.ReasonHostLost:
		return []string{"see the last error, and the provider it came from"}
	}
	return nil
}
