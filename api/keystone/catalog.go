package keystone

// service is an entry of the catalogs.
type service struct {
	kind, name, path string
	version          string // versionId, in version 2.0's catalog
}

// services are what stock clients look for. The image service has no version in its address: clients append it.
var services = []service{
	{"compute", "nova", "/v2.1", "v2.1"},
	{"image", "glance", "/image", "v2"},
	{"identity", "keystone", "/identity", "v2.0"},
}

// cyclades are what kamaki looks for: a type, and then the one endpoint of the version that it knows.
var cyclades = []service{
	{"compute", "cyclades_compute", "/compute/v2.0", "v2.0"},
	{"image", "plankton", "/image/v1.0", "v1.0"},
	{"identity", "astakos_identity", "/identity/v2.0", "v2.0"},
}

func (f *Family) catalog3(base string) []object {
	list := []object{}
	for _, s := range services {
		list = append(list, object{"id": s.name, "type": s.kind, "name": s.name, "endpoints": []object{{
			"id": s.name + "-public", "interface": "public", "region": f.Region, "region_id": f.Region, "url": base + s.path}}})
	}
	return list
}

func (f *Family) catalog2(base string) []object {
	published := services
	if f.Cyclades {
		published = cyclades
	}
	list := []object{}
	for _, s := range published {
		url := base + s.path
		list = append(list, object{"type": s.kind, "name": s.name, "endpoints_links": []object{}, "endpoints": []object{{
			"region": f.Region, "publicURL": url, "internalURL": url, "adminURL": url, "versionId": s.version}}})
	}
	return list
}
