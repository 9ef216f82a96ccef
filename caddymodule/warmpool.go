package caddymodule

import "path"

// pool is how many spares t keeps; 0 in the template overrules the defaults.
func (t *Template) pool(defaults *Template) int {
	for _, own := range []*int{t.Pool, defaults.Pool} {
		if own != nil {
			return *own
		}
	}
	return 0
}

// isFileBelowAFolder reports whether path is that of a file whose folder can be
// mounted: the root of a container cannot.
func isFileBelowAFolder(file string) bool {
	return path.IsAbs(file) && path.Clean(file) == file && path.Dir(file) != "/"
}
