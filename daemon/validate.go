package daemon

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"
)

// Bounds of what a caller may ask for, whatever the quota. Codecs name them too, and have none of their own.
const (
	MaxVCPUs     = 256       // q35's limit without an IOMMU is 255; libvirt refuses what the host's QEMU cannot
	MinMemoryMB  = 64        // no kernel boots in less
	MaxMemoryMB  = 4_194_304 // 4 TiB
	MaxPassword  = 8         // VNC authentication is DES with an 8-byte key (RFC 6143, section 7.2.2)
	MaxLoginUser = 32
	MaxTitle     = 256
	MaxText      = 2048
)

// validate checks what a caller gave and fills in the contract's defaults.
func (d *Daemon) validate(c Caller, n NewCapsule) (NewCapsule, error) {
	if n.VCPUs == 0 {
		n.VCPUs = 1
	}
	if n.MemoryMB == 0 {
		n.MemoryMB = 1024
	}
	if n.Type == "" {
		n.Type = Research
	}
	if _, err := uuid.Parse(n.ImageID); err != nil || len(n.ImageID) != 36 {
		return n, errorf(Invalid, "imageid %q is not an image id: a UUID such as 6f1c7a52-0b5e-4c64-9a53-0d2f5d1f7a10 is", clip(n.ImageID))
	}
	n.ImageID = strings.ToLower(n.ImageID)
	if n.VCPUs < 1 || n.VCPUs > MaxVCPUs {
		return n, errorf(Invalid, "vcpu is %d: it must be 1 to %d", n.VCPUs, MaxVCPUs)
	}
	if n.MemoryMB < MinMemoryMB || n.MemoryMB > MaxMemoryMB {
		return n, errorf(Invalid, "memory is %d: it must be %d to %d (MB)", n.MemoryMB, MinMemoryMB, MaxMemoryMB)
	}
	if !slices.Contains([]Type{Demo, Research, ResearchFull}, n.Type) {
		return n, errorf(Invalid, "type %q is unknown: it must be %s, %s or %s", clip(string(n.Type)), Demo, Research, ResearchFull)
	}
	// Full access is granted, not taken: a caller may only ask for it (false means asked, contract 6.2).
	if (n.Type == ResearchFull || n.FullAccess != nil && *n.FullAccess) && !c.admin() {
		return n, errorf(Forbidden, "full access is granted by an administrator: create the capsule as %s and request it", Research)
	}
	if err := text("loginusername", n.LoginUser, 1, MaxLoginUser, "a-z, A-Z, 0-9, '.', '_' and '-'", loginRune); err != nil {
		return n, err
	}
	if err := text("loginpassword", n.LoginPassword, 1, MaxPassword, "printable ASCII", asciiRune); err != nil {
		return n, err
	}
	return n, validateAbout(n.About)
}

func validateAbout(a About) error {
	for _, f := range []struct {
		name  string
		value *string
		most  int
		rule  string
		valid func(rune) bool
	}{
		{"title", a.Title, MaxTitle, "printable text on one line", lineRune},
		{"desc_nature", a.DescNature, MaxText, "printable text", textRune},
		{"desc_requirement", a.DescRequirement, MaxText, "printable text", textRune},
		{"desc_links", a.DescLinks, MaxText, "printable text", textRune},
		{"desc_outside_data", a.DescOutsideData, MaxText, "printable text", textRune},
		{"rr_data_files", a.RRDataFiles, MaxText, "printable text", textRune},
		{"rr_result_usage", a.RRResultUsage, MaxText, "printable text", textRune},
	} {
		if f.value == nil {
			continue
		}
		if err := text(f.name, *f.value, 0, f.most, f.rule, f.valid); err != nil {
			return err
		}
	}
	return nil
}

// text checks one field: its length in characters and what the characters may be.
func text(name, value string, least, most int, rule string, valid func(rune) bool) error {
	if !utf8.ValidString(value) {
		return errorf(Invalid, "%s is not UTF-8", name)
	}
	if n := utf8.RuneCountInString(value); n < least || n > most {
		return errorf(Invalid, "%s has %d characters: it must have %d to %d", name, n, least, most)
	}
	for i, r := range value {
		if !valid(r) {
			return errorf(Invalid, "%s has %q at position %d: only %s is allowed", name, r, i+1, rule)
		}
	}
	return nil
}

func loginRune(r rune) bool {
	return r < utf8.RuneSelf && (unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune("._-", r))
}

func asciiRune(r rune) bool { return r > ' ' && r <= '~' }

func lineRune(r rune) bool { return unicode.IsPrint(r) }

func textRune(r rune) bool { return unicode.IsPrint(r) || r == '\n' || r == '\r' || r == '\t' }

// clip keeps what a caller sent short enough to be quoted in an answer, a log line or an audit row.
func clip(s string) string {
	const most = 80
	if len(s) <= most {
		return s
	}
	return fmt.Sprintf("%s... (%d bytes)", strings.ToValidUTF8(s[:most], ""), len(s))
}
