package imagestore

import "context"

// Keys lists the clone directories that there are, whoever made them; half-made and half-erased ones are not among
// them.
func (s *Store) Keys(context.Context) ([]string, error) {
	names, err := s.capsules.names()
	if err != nil {
		return nil, failed("keys", s.opt.Dir, err)
	}
	var keys []string
	for _, name := range names {
		if checkKey(name) == nil {
			keys = append(keys, name)
		}
	}
	return keys, nil
}

// Digests lists the images that there are, whether or not a record names them.
func (s *Store) Digests(context.Context) ([]Digest, error) {
	names, err := s.images.names()
	if err != nil {
		return nil, failed("digests", s.opt.Dir, err)
	}
	var digests []Digest
	for _, name := range names {
		if d, ok := parseImageName(name); ok {
			digests = append(digests, d)
		}
	}
	return digests, nil
}
