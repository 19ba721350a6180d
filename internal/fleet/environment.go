package fleet

// MaxEnvironment bounds an installation's env and secrets together, names
// included, in bytes.
const MaxEnvironment = 256 << 10

// CheckEnvironment bounds env and secrets together, and keeps a name in one of
// them. Secrets are values as they were given, or stand-ins of their length.
func CheckEnvironment(env, secrets map[string]string) error {
	total := 0
	for name, value := range env {
		total += len(name) + len(value)
		if _, both := secrets[name]; both {
			return InvalidField("secrets."+name, "%s is both in env and in secrets: remove one", name)
		}
	}
	for name, value := range secrets {
		total += len(name) + len(value)
	}
	if total > MaxEnvironment {
		return InvalidField("env", "env and secrets have %d bytes together, at most %d fit: put large values into a file of the package",
			total, MaxEnvironment)
	}
	return nil
}

// CheckSealedEnvironment is CheckEnvironment for sealed secrets: a sealed value
// is base64 of a little more than the value, so that three quarters of its
// length are what counts.
func CheckSealedEnvironment(env, sealed map[string]string) error {
	secrets := make(map[string]string, len(sealed))
	for name, value := range sealed {
		secrets[name] = value[:len(value)/4*3]
	}
	return CheckEnvironment(env, secrets)
}
