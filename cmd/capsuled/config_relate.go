package main

import "strings"

// relate checks what no key can say alone. A rule is left out when one of its keys has a fault of its own.
func (p *parser) relate() {
	p.relateTLS()
	p.relateAddresses()
	p.relatePorts()
	p.relateDirs()
	p.relateImages()
	p.relateIdentity()
	c := p.config
	if p.usable("capsule.volume_gb", "quota.disk_gb") && c.Capsule.VolumeGB > c.Quota.DiskGB {
		p.fault(p.lineOf("capsule.volume_gb", "quota.disk_gb"), "capsule.volume_gb",
			"is %d, more than quota.disk_gb (%d): nobody could create a capsule", c.Capsule.VolumeGB, c.Quota.DiskGB)
	}
}

func (p *parser) relateTLS() {
	c := p.config.API
	if !p.usable("api.tls_cert", "api.tls_key", "api.listen", "api.client_ca") {
		return
	}
	switch {
	case c.TLSCert != "" && c.TLSKey == "":
		p.fault(p.lineOf("api.tls_cert"), "api.tls_cert", "stands alone; want api.tls_key beside it")
	case c.TLSCert == "" && c.TLSKey != "":
		p.fault(p.lineOf("api.tls_key"), "api.tls_key", "stands alone; want api.tls_cert beside it")
	}
	if c.ClientCA != "" && c.TLSCert == "" {
		p.fault(p.lineOf("api.client_ca"), "api.client_ca", "needs TLS; want api.tls_cert and api.tls_key beside it")
	}
	if c.TLSCert != "" {
		return
	}
	for _, l := range c.Listen {
		if at, err := parseListen(l); err == nil && !at.Addr().Unmap().IsLoopback() {
			p.fault(p.lineOf("api.listen"), "api.listen",
				"has %q, which others can reach; want api.tls_cert and api.tls_key, or an address such as 127.0.0.1", l)
		}
	}
}

func (p *parser) relateAddresses() {
	c := p.config
	if p.usable("host.public_ip", "network.subnet") && c.Network.Subnet.Contains(c.Host.PublicIP) {
		p.fault(p.lineOf("host.public_ip", "network.subnet"), "host.public_ip",
			"is %s, inside of network.subnet (%s): only capsules could reach it", c.Host.PublicIP, c.Network.Subnet)
	}
	if p.usable("network.vnc_listen", "network.subnet") && c.Network.Subnet.Contains(c.Network.VNCListen) {
		p.fault(p.lineOf("network.vnc_listen", "network.subnet"), "network.vnc_listen",
			"is %s, inside of network.subnet (%s): consoles would listen to capsules", c.Network.VNCListen, c.Network.Subnet)
	}
}

func (p *parser) relatePorts() {
	c := p.config
	if !p.usable("network.ports", "api.listen") {
		return
	}
	for _, l := range c.API.Listen {
		if at, err := parseListen(l); err == nil && c.Network.Ports.Contains(at.Port()) {
			p.fault(p.lineOf("api.listen", "network.ports"), "api.listen",
				"has %q, whose port is one of network.ports (%s), which capsules get", l, c.Network.Ports)
		}
	}
}

// relateDirs: what must outlive a reboot may not lie in what is emptied by one.
func (p *parser) relateDirs() {
	c := p.config.Host
	if !p.usable("host.state_dir", "host.run_dir") {
		return
	}
	state, run := c.StateDir+"/", c.RunDir+"/"
	if strings.HasPrefix(state, run) || strings.HasPrefix(run, state) {
		p.fault(p.lineOf("host.state_dir", "host.run_dir"), "host.state_dir",
			"is %q and host.run_dir is %q; want neither inside of the other", c.StateDir, c.RunDir)
	}
}

// usable reports whether none of the keys has a fault of its own.
func (p *parser) usable(names ...string) bool {
	for _, n := range names {
		if p.bad[n] {
			return false
		}
	}
	return true
}

// lineOf is the line of the first of the keys that the file has; 0 when it has none.
func (p *parser) lineOf(names ...string) int {
	for _, n := range names {
		if l := p.lines[n]; l > 0 {
			return l
		}
	}
	return 0
}
