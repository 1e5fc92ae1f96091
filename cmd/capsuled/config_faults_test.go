package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/capsuled/capsuled/internal/golden"
)

// TestFaultsGolden: one file with everything wrong in it, and everything told at once.
func TestFaultsGolden(t *testing.T) {
	data, err := os.ReadFile("testdata/faults.toml")
	if err != nil {
		t.Fatal(err)
	}
	_, err = parseConfig("faults.toml", data)
	if err == nil {
		t.Fatal("no fault found")
	}
	golden.Check(t, "faults", err.Error()+"\n")
}

func TestFaults(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"syntax", "[host]\nname = \n", "c:2: not TOML"},
		{"not UTF-8", "[host]\nname = \"\xff\"", "c:2: not TOML"},
		{"key twice", "[host]\nname = \"a\"\nname = \"b\"", "c:3: not TOML"},
		{"escape in a key", "[\"\\u001b[2J\"]\nx = 1", `c:1: "\x1b[2J": unknown section`},
		{"case matters", "[quota]\nCPUs = 1", "c:2: quota.CPUs: unknown key; did you mean cpus?"},
		{"inline table", "quota = { cpus = 0 }", "c:1: quota.cpus: is the number 0; want a whole number from 1 to 4096"},
		{"dotted key", "quota.cpus = 0", "c:1: quota.cpus: is the number 0; want a whole number from 1 to 4096"},
		{"float", "[quota]\ncpus = 1.5", "c:2: quota.cpus: is the number 1.5; want a whole number"},
		{"too large", "[quota]\ncpus = 9223372036854775807", "c:2: quota.cpus: is the number 9223372036854775807; want"},
		{"table for a value", "[quota.cpus]\nx = 1", "c:1: quota.cpus: is a table; want a whole number"},
		{"list of tables", "[[quota]]\ncpus = 1", "c:1: quota: is a section; want [quota]"},
		{"subnet public", "[network]\nsubnet = \"8.8.8.0/24\"", "c:2: network.subnet: is \"8.8.8.0/24\"; want a private network"},
		{"subnet large", "[network]\nsubnet = \"10.0.0.0/8\"", "prefix length from /16 to /29"},
		{"subnet small", "[network]\nsubnet = \"10.0.0.0/30\"", "prefix length from /16 to /29"},
		{"subnet v6", "[network]\nsubnet = \"fd00::/64\"", "want an IPv4 network"},
		{"one port", "[network]\nports = \"16000-16000\"", "needs two ports"},
		{"low ports", "[network]\nports = \"5899-6000\"", "at least 5900"},
		{"high ports", "[network]\nports = \"16000-65536\"", "at most 65535"},
		{"signed ports", "[network]\nports = \"+16000-16010\"", "want \"LOW-HIGH\""},
		{"tap's name", "[network]\nbridge = \"cap-br\"", "belong to the taps"},
		{"public plain listener", "[api]\nlisten = [\"0.0.0.0:8080\"]", "c:2: api.listen: has \"0.0.0.0:8080\", which others can reach"},
		{"mapped loopback is loopback, any is not", "[api]\nlisten = [\"[::]:8080\"]", "which others can reach"},
		{"port 0", "[api]\nlisten = [\"127.0.0.1:0\"]", "want IP:PORT"},
		{"listener among capsule ports", "[api]\nlisten = [\"127.0.0.1:16050\"]", "c:2: api.listen: has \"127.0.0.1:16050\", whose port is one of"},
		{"same by the range", "[network]\nports = \"8000-9000\"", "c:2: api.listen: has \"127.0.0.1:8080\", whose port is one of"},
		{"public URL with a slash", "[api]\npublic_url = \"https://h/x/\"", "c:2: api.public_url: is \"https://h/x/\"; it must be http:// or https:// and a host"},
		{"public URL with a query", "[api]\npublic_url = \"https://h?x\"", "no closing slash, user, query, fragment or escape"},
		{"public URL's port", "[api]\npublic_url = \"https://h:70000\"", "must have a port from 1 to 65535"},
		{"client CA alone", "[api]\nclient_ca = \"/nonexistent\"", "c:2: api.client_ca: is \"/nonexistent\", which cannot be read"},
		{"public address in the subnet", "[host]\npublic_ip = \"192.168.53.9\"", "c:2: host.public_ip: is 192.168.53.9, inside of network.subnet"},
		{"console for capsules", "[network]\nvnc_listen = \"192.168.53.1\"", "consoles would listen to capsules"},
		{"state in run", "[host]\nstate_dir = \"/run/capsuled/x\"", "neither inside of the other"},
		{"same directory", "[host]\nrun_dir = \"/var/lib/capsuled\"", "neither inside of the other"},
		{"long socket", "[api]\nsocket = \"/" + strings.Repeat("x", 107) + "\"", "has 108 bytes"},
		{"volume over quota", "[quota]\ndisk_gb = 5", "c:2: capsule.volume_gb: is 10, more than quota.disk_gb (5)"},
		{"other libvirt", "[libvirt]\nuri = \"qemu+tcp://host/system\"", "want \"qemu:///system\""},
		{"session", "[libvirt]\nuri = \"qemu:///session\"", "want \"qemu:///system\""},
		{"command in the URI", "[libvirt]\nuri = \"qemu+ext:///system?command=/bin/sh\"", "want \"qemu:///system\""},
		{"no grace", "[capsule]\nstop_grace = \"0s\"", "want a duration from \"1s\" to \"1h0m0s\""},
		{"host with a path", "[images]\nfetch_hosts = [\"h/x\"]", "c:2: images.fetch_hosts: an item is \"h/x\"; want a host in lower case"},
		{"every host", "[images]\nfetch_hosts = [\"*\"]", "want a host in lower case"},
		{"host in capitals", "[images]\nfetch_hosts = [\"Example.org\"]", "want a host in lower case"},
		{"scheme", "[images]\nfetch_schemes = [\"file\"]", "want \"https\" or \"http\""},
		{"no scheme", "[images]\nfetch_hosts = [\"h\"]\nfetch_schemes = []", "c:3: images.fetch_schemes: is empty"},
		{"address for a network", "[images]\nfetch_private_networks = [\"10.0.0.1/8\"]", "want \"10.0.0.0/8\""},
		{"no network", "[images]\nfetch_private_networks = [\"localhost\"]", "want a network"},
		{"everything goes", "[images]\nclean_remove = [\"*\"]", "but not these alone"},
		{"pattern upwards", "[images]\nclean_remove = [\"../x\"]", "want names joined by single slashes"},
		{"pattern that is none", "[images]\nclean_empty = [\"[\"]", "want names joined by single slashes"},
		{"stays and goes", "[images]\nclean_empty = [\".htrc\"]", "c:2: images.clean_empty: has \".htrc\", which is in images.clean_remove too"},
		{"peer", "[images]\npeers = [\"root\"]", "a guid is reserved"},
		{"collected always", "[images]\ncollect_every = \"1s\"", "want a duration from \"1m0s\""},
		{"token for ever", "[identity]\ntoken_life = \"1000h\"", "want a duration from"},
		{"region", "[identity]\nregion = \"a b\"", "want a letter"},
		{"users without a file", "[identity]\nusers_file = \"/nonexistent\"", "which cannot be read"},
		{"guid with a newline", "[auth]\nadmins = [\"a\\nb\"]", `c:2: auth.admins: an item is "a\nb"; a guid must be`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := parseConfig("c", []byte(tt.text))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
			if err != nil && strings.ContainsRune(err.Error(), 0x1b) {
				t.Errorf("an escape got through: %q", err)
			}
		})
	}
}

// pair makes a certificate and its key.
func pair(t *testing.T) (cert, key string) {
	t.Helper()
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, priv.Public(), priv)
	if err != nil {
		t.Fatal(err)
	}
	pk, err := x509.MarshalPKCS8PrivateKey(priv)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pk}))
}

func TestTLSAndSecretFiles(t *testing.T) {
	certText, keyText := pair(t)
	cert, key := writeFile(t, "cert.pem", certText, 0o644), writeFile(t, "key.pem", keyText, 0o600)
	openKey := writeFile(t, "key.pem", keyText, 0o644)
	secret := strings.Repeat("s", 32) + "\n"
	for _, tt := range []struct{ name, text, want string }{
		{"a pair serves everybody", "[api]\nlisten = [\"0.0.0.0:8443\"]\ntls_cert = \"" + cert + "\"\ntls_key = \"" + key + "\"\nclient_ca = \"" + cert + "\"", ""},
		{"certificate alone", "[api]\ntls_cert = \"" + cert + "\"", "c:2: api.tls_cert: stands alone"},
		{"key alone", "[api]\ntls_key = \"" + key + "\"", "c:2: api.tls_key: stands alone"},
		{"client CA without TLS", "[api]\nclient_ca = \"" + cert + "\"", "c:2: api.client_ca: needs TLS"},
		{"key open to all", "[api]\ntls_cert = \"" + cert + "\"\ntls_key = \"" + openKey + "\"", "lets everybody in: chmod o= "},
		{"key for a certificate", "[api]\ntls_cert = \"" + key + "\"\ntls_key = \"" + key + "\"", "holds no certificate"},
		{"certificate for a key", "[api]\ntls_cert = \"" + cert + "\"\ntls_key = \"" + writeFile(t, "k", certText, 0o600) + "\"", "holds no private key"},
		{"secret", "[auth]\njwt_secret_file = \"" + writeFile(t, "s", secret, 0o640) + "\"", ""},
		{"short secret", "[auth]\njwt_secret_file = \"" + writeFile(t, "s", secret[1:], 0o600) + "\"", "holds 31 bytes; want at least 32"},
		{"open secret", "[auth]\njwt_secret_file = \"" + writeFile(t, "s", secret, 0o604) + "\"", "lets everybody in"},
		{"users", "[auth]\njwt_secret_file = \"" + writeFile(t, "s", secret, 0o600) + "\"\n[identity]\nusers_file = \"" + writeFile(t, "u", "", 0o640) + "\"", ""},
		{"users without tokens", "[identity]\nusers_file = \"" + writeFile(t, "u", "", 0o600) + "\"", "c:2: identity.users_file: needs auth.jwt_secret_file"},
		{"open users", "[identity]\nusers_file = \"" + writeFile(t, "u", "", 0o644) + "\"", "lets everybody in"},
		{"relative secret", "[auth]\njwt_secret_file = \"secret\"", "want an absolute path"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := parseConfig("c", []byte(tt.text))
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
}

// FuzzConfig: whatever a file says, it is refused with lines that exist and text that is safe to print, or it is
// accepted and says the same when it is written and read again.
func FuzzConfig(f *testing.F) {
	for _, name := range []string{"testdata/full.toml", "testdata/faults.toml", "../../docs/capsuled.example.toml"} {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(data))
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, err := parseConfig("c", []byte(text))
		if err != nil {
			fs, ok := err.(Faults)
			if !ok || len(fs) == 0 {
				t.Fatalf("%T %v", err, err)
			}
			for _, x := range fs {
				if x.Line < 0 || x.Line > strings.Count(text, "\n")+1 || visible(x.Key+x.Text) != x.Key+x.Text {
					t.Errorf("%+q", x)
				}
			}
			return
		}
		var b bytes.Buffer
		if err := c.WriteTOML(&b); err != nil {
			t.Fatal(err)
		}
		again, err := parseConfig("again", b.Bytes())
		if err != nil {
			t.Fatalf("%v\n%s", err, b.String())
		}
		if d := cmp.Diff(c, again, cmpConfig); d != "" {
			t.Error(d)
		}
	})
}
