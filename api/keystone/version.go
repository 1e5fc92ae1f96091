package keystone

import (
	"net/http"

	"github.com/capsuled/capsuled/api/dialect"
)

func versionObject(base, id, status, updated, path, media string) object {
	return object{"id": id, "status": status, "updated": updated,
		"links":       []object{{"rel": "self", "href": base + prefix + path}},
		"media-types": []object{{"base": "application/json", "type": "application/vnd.openstack.identity-" + media + "+json"}}}
}

func object3(base string) object {
	return versionObject(base, "v3.14", "stable", "2020-04-07T00:00:00Z", "/v3/", "v3")
}

func object2(base string) object {
	return versionObject(base, "v2.0", "deprecated", "2016-08-04T00:00:00Z", "/v2.0/", "v2.0")
}

// versions has the list in "values", which gophercloud looks for alone, and keystone's own status.
func (f *Family) versions(req *dialect.Request) (dialect.Reply, error) {
	list := object{"versions": object{"values": []object{object3(req.Base), object2(req.Base)}}}
	return document(http.StatusMultipleChoices, list), nil
}

func (f *Family) version3(req *dialect.Request) (dialect.Reply, error) {
	return document(http.StatusOK, object{"version": object3(req.Base)}), nil
}

func (f *Family) version2(req *dialect.Request) (dialect.Reply, error) {
	return document(http.StatusOK, object{"version": object2(req.Base)}), nil
}
