package caddymodule

// pool is how many spares t keeps; 0 in the template overrules the defaults.
func (t *Template) pool(defaults *Template) int {
	for _, own := range []*int{t.Pool, defaults.Pool} {
		if own != nil {
			return *own
		}
	}
	return 0
}
