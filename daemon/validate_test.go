package daemon_test

import (
	"strings"
	"testing"

	"github.com/capsuled/capsuled/daemon"
)

// TestBadOrders: the daemon's own checks, which hold whatever a codec lets through. Nothing is written for any of them.
func TestBadOrders(t *testing.T) {
	b := newBench(t, nil)
	image := b.image()
	yes, no, long := true, false, strings.Repeat("x", 2049)
	control := "a\x1b[2Jb"
	for name, c := range map[string]struct {
		change func(*daemon.NewCapsule)
		want   daemon.Code
	}{
		"no image":               {func(n *daemon.NewCapsule) { n.ImageID = "" }, daemon.Invalid},
		"image in braces":        {func(n *daemon.NewCapsule) { n.ImageID = "{" + image + "}" }, daemon.Invalid},
		"negative vcpus":         {func(n *daemon.NewCapsule) { n.VCPUs = -1 }, daemon.Invalid},
		"257 vcpus":              {func(n *daemon.NewCapsule) { n.VCPUs = 257 }, daemon.Invalid},
		"256 vcpus":              {func(n *daemon.NewCapsule) { n.VCPUs = 256 }, daemon.OverQuota},
		"63 MB":                  {func(n *daemon.NewCapsule) { n.MemoryMB = 63 }, daemon.Invalid},
		"4 TiB and a bit":        {func(n *daemon.NewCapsule) { n.MemoryMB = 4<<20 + 1 }, daemon.Invalid},
		"no such type":           {func(n *daemon.NewCapsule) { n.Type = "FULL" }, daemon.Invalid},
		"full type taken":        {func(n *daemon.NewCapsule) { n.Type = daemon.ResearchFull }, daemon.Forbidden},
		"full access taken":      {func(n *daemon.NewCapsule) { n.FullAccess = &yes }, daemon.Forbidden},
		"password of 9":          {func(n *daemon.NewCapsule) { n.LoginPassword = "123456789" }, daemon.Invalid},
		"no password":            {func(n *daemon.NewCapsule) { n.LoginPassword = "" }, daemon.Invalid},
		"password with a bell":   {func(n *daemon.NewCapsule) { n.LoginPassword = "bell\a" }, daemon.Invalid},
		"password not ASCII":     {func(n *daemon.NewCapsule) { n.LoginPassword = "pässword" }, daemon.Invalid},
		"login of a shell":       {func(n *daemon.NewCapsule) { n.LoginUser = "$(id)" }, daemon.Invalid},
		"login of 33":            {func(n *daemon.NewCapsule) { n.LoginUser = strings.Repeat("a", 33) }, daemon.Invalid},
		"title of a terminal":    {func(n *daemon.NewCapsule) { n.About.Title = &control }, daemon.Invalid},
		"text of 2049":           {func(n *daemon.NewCapsule) { n.About.DescNature = &long }, daemon.Invalid},
		"last text of 2049":      {func(n *daemon.NewCapsule) { n.About.RRResultUsage = &long }, daemon.Invalid},
		"text that is not UTF-8": {func(n *daemon.NewCapsule) { s := "\xff"; n.About.DescLinks = &s }, daemon.Invalid},
	} {
		n := order(image)
		c.change(&n)
		if _, _, err := b.CreateCapsule(t.Context(), alice, n); code(err) != c.want {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
	if all := b.states(); len(all) != 0 {
		t.Errorf("left behind: %v", all)
	}
	n := order(strings.ToUpper(image)) // an id is the same in capitals
	n.FullAccess = &no                 // asked for, not taken
	v, op, err := b.CreateCapsule(t.Context(), alice, n)
	b.succeed(op, err)
	if got := b.show(v.ID); got.Type != daemon.Research || got.CapsuleFullAccess == nil || *got.CapsuleFullAccess {
		t.Errorf("%+v", got)
	}
}
