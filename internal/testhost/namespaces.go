package testhost

import (
	"fmt"
	"os"
	"path/filepath"
)

// own are the namespaces that a host never shares with what is around it.
var own = []string{"mnt", "net", "uts", "ipc", "pid"}

func outsideLink(state, kind string) string { return filepath.Join(state, "outside-"+kind) }

// noteOutside writes down, as dangling links, which namespaces the launcher is in.
func noteOutside(state string) error {
	for _, kind := range own {
		id, err := os.Readlink("/proc/self/ns/" + kind)
		if err != nil {
			return err
		}
		if err := os.Symlink(id, outsideLink(state, kind)); err != nil {
			return err
		}
	}
	return nil
}

// checkNamespaces refuses to set anything up unless this process is alone in namespaces of its own: the set-up
// run by mistake on the machine itself would rename it and hide its devices.
func checkNamespaces(state string) error {
	if os.Getpid() != 1 {
		return fmt.Errorf("the init has pid %d, want 1: it is started by the launcher only", os.Getpid())
	}
	for _, kind := range own {
		outer, err := os.Readlink(outsideLink(state, kind))
		if err != nil {
			return err
		}
		inner, err := os.Readlink("/proc/self/ns/" + kind)
		if err != nil {
			return err
		}
		if inner == outer {
			return fmt.Errorf("the init shares its %s namespace with the machine", kind)
		}
	}
	return nil
}
