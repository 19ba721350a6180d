package sim

import "math/bits"

// draw returns a number in [0, 1) that depends on nothing but its arguments:
// FNV-1a over them, finished as in SplitMix64 so that near keys lie far apart.
func draw(seed int64, what string, call Call, object string, attempt uint32) float64 {
	const offset, prime = 14695981039346656037, 1099511628211
	h := uint64(offset)
	text := func(s string) {
		for i := range len(s) {
			h = (h ^ uint64(s[i])) * prime
		}
		h = (h ^ 0xff) * prime
	}
	h ^= bits.RotateLeft64(uint64(seed), 17)
	text(what)
	text(string(call))
	text(object)
	h ^= uint64(attempt)
	h += 0x9e3779b97f4a7c15
	h = (h ^ (h >> 30)) * 0xbf58476d1ce4e5b9
	h = (h ^ (h >> 27)) * 0x94d049bb133111eb
	h ^= h >> 31
	return float64(h>>11) / (1 << 53)
}
